"""The values of a diffusers `VQModel`'s config that decide its network."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import nn

EPS = 1e-6
SPATIAL_GROUPS = 32
"""Groups of each spatial norm, whatever the config says of the other norms: diffusers' own."""
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}
"""By their names in a config. The last activation of encoder and decoder is always SiLU."""


@dataclass(frozen=True)
class NetworkConfig:
    """The values of a `VQModel`'s config that decide its network, with diffusers' defaults.

    Attributes:
        block_out_channels: channels of each level; every level but the last halves the picture.
        down_block_types, up_block_types: of each level; names that begin with `Attn` have attention.
        layers_per_block: residual blocks of a level of the encoder; the decoder has one more.
        latent_channels, vq_embed_dim: channels before and after the convolution in front of the codebook; None for as
            many.
        num_vq_embeddings: codes.
        norm_num_groups: groups of each norm.
        act_fn: a name of `ACTIVATIONS`.
        mid_block_add_attention: attention in the middle of encoder and decoder.
        lookup_from_codebook: as aMUSEd's; decides the pixel range alone.
        norm_type: `group`, or `spatial` for a decoder whose norms take the codebook's rows (MoVQ).
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    layers_per_block: int = 1
    latent_channels: int = 3
    vq_embed_dim: int | None = None
    num_vq_embeddings: int = 256
    norm_num_groups: int = 32
    act_fn: str = "silu"
    mid_block_add_attention: bool = True
    lookup_from_codebook: bool = False
    norm_type: str = "group"

    @property
    def codebook_channels(self) -> int:
        """Channels of the codebook's rows."""
        return self.vq_embed_dim or self.latent_channels

    @property
    def rows_channels(self) -> int:
        """Channels of the rows that the decoder's norms take; 0 if they take none."""
        return self.codebook_channels if self.norm_type == "spatial" else 0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Takes the values of a config.json; others have no influence on the network."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
