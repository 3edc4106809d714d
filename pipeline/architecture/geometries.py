"""MARS configs of known sizes, for benchmarks."""

from dataclasses import asdict

from pipeline.architecture.mars_config import MarsConfig
from pipeline.config.model_sizes import SIZES

GEOMETRIES = {name: MarsConfig(**asdict(geometry)) for name, geometry in SIZES.items()}


def with_layers(config: MarsConfig, layers: int) -> MarsConfig:
    """The config with another number of layers."""
    values = config.to_dict()
    values.pop("layer_types")
    return MarsConfig(**values | {"num_hidden_layers": layers})
