"""Sizes of a MARS model, for plans. Imports neither torch nor transformers."""

from dataclasses import dataclass
from typing import Protocol

from pipeline.config.vocabulary import JointVocabulary

LOSS_CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
"""Bytes of the float32 logits of one chunk of positions in the loss, by the device's type. A CPU keeps a small chunk in
its caches. A GPU reads the text head's 1.2 GB once a chunk, so that small chunks would be bound by its memory."""
CACHE_SLOT_MULTIPLE = 64
"""Slots of a row's cache are rounded up to a multiple of this: attention kernels prefer such sizes, shapes repeat."""
CACHE_SHARE = 0.8
"""Share of a GPU's free memory that caches may take; the rest is for activations and the VQ-GAN."""
LANGUAGE_EXPERT_POSITIONS = 4096
"""Maximum number of positions of the small language expert that a run trains."""


class ModelSizes(Protocol):
    """The common interface of `MarsConfig` and `Geometry`. Names as in the configs of Qwen2 and Qwen3."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def qkv_bias(self) -> bool: ...
    @property
    def query_key_norm(self) -> bool: ...
    @property
    def norms_visual_queries(self) -> bool: ...
    @property
    def tie_word_embeddings(self) -> bool: ...
    @property
    def text_vocab_size(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...
    @property
    def shared_output_projection(self) -> bool: ...
    @property
    def vocabulary(self) -> JointVocabulary: ...


def cache_slots(positions: int) -> int:
    """Slots of a row's cache for `positions` positions, and one that no query sees."""
    return -(-(positions + 1) // CACHE_SLOT_MULTIPLE) * CACHE_SLOT_MULTIPLE


def cache_row_bytes(sizes: ModelSizes, positions: int, element_bytes: int) -> int:
    """Bytes of the keys and values of one row of `positions` positions, over all layers."""
    a_slot = 2 * element_bytes * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_size
    return a_slot * cache_slots(positions)


@dataclass(frozen=True)
class Geometry:
    """Sizes of a model. The fields are arguments of `MarsConfig`."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    text_vocab_size: int = 151_936
    codebook_size: int = 8192
    shared_output_projection: bool = False
    head_dim: int | None = None
    qkv_bias: bool = True
    query_key_norm: bool = False
    visual_query_key_norm: bool = False

    @property
    def head_size(self) -> int:
        """Size of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def norms_visual_queries(self) -> bool:
        """The visual expert normalises its queries and keys."""
        return self.query_key_norm or self.visual_query_key_norm

    @property
    def vocabulary(self) -> JointVocabulary:
        """The joint vocabulary's id arithmetic."""
        return JointVocabulary(self.text_vocab_size, self.codebook_size)

    @property
    def vocab_size(self) -> int:
        """Rows of the joint vocabulary."""
        return self.vocabulary.size


SIZES = {
    # The public config of Qwen-7B: 32 layers of hidden size 4,096; its fused FFN of 22,016 is two of 11,008.
    "qwen_7b": Geometry(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=8192,
    ),
    # The public config of Qwen2-0.5B (Qwen2.5-0.5B has the same sizes).
    "qwen2_0_5b": Geometry(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    ),
    # The public config of Qwen2-1.5B (Qwen2.5-1.5B has the same sizes): grouped heads, one table for both ends.
    "qwen2_1_5b": Geometry(
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    ),
    # The public config of Qwen3-0.6B: as Qwen3-1.7B's but for these.
    "qwen3_0_6b": Geometry(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
        head_dim=128,
        qkv_bias=False,
        query_key_norm=True,
    ),
    # The public config of Qwen3-1.7B: heads of 128 whatever the hidden size, norms of queries and keys, no biases.
    "qwen3_1_7b": Geometry(
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
        head_dim=128,
        qkv_bias=False,
        query_key_norm=True,
    ),
    # A small model of the same architecture, for two CPU cores.
    "small": Geometry(
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    ),
}
"""Known sizes by name, all with Qwen's 151,936 text rows and 8,192 codes."""
