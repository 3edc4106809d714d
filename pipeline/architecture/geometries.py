"""Known sizes of MARS by name, for plans and benchmarks."""

from pipeline.architecture.mars_config import MarsConfig

GEOMETRIES = {
    # The public config of Qwen-7B: 32 layers of hidden size 4,096; its fused FFN of 22,016 is two of 11,008.
    "qwen_7b": MarsConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=8192,
    ),
    # The public config of Qwen2-1.5B (Qwen2.5-1.5B has the same sizes): grouped heads, one table for both ends.
    "qwen2_1_5b": MarsConfig(
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    ),
    # For two CPU cores: the same shape in small.
    "small": MarsConfig(
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    ),
}
"""MARS configs by name, all with Qwen's 151,936 text rows and 8,192 codes."""


def with_layers(config: MarsConfig, layers: int) -> MarsConfig:
    """The config with another number of layers."""
    values = config.to_dict()
    values.pop("layer_types")
    return MarsConfig(**values | {"num_hidden_layers": layers})
