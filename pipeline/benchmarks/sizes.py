"""Parameter counts of the model geometries."""

from typing import Any

from pipeline.config.model_sizes import SIZES
from pipeline.planning.flops import count_parameters


def parameters_of(geometry: str) -> dict[str, Any]:
    """Returns the parameter count of one of `SIZES`, without making the model."""
    config = SIZES[geometry]
    counts = count_parameters(config)
    return {
        "geometry": geometry,
        "vocab_size": config.vocab_size,
        "total_parameters": counts.total,
        "trainable_parameters": counts.trainable,
        "active_parameters": counts.active,
    }
