"""Tensor names of VQ-GANs in taming-transformers, open-muse and LlamaGen, and geometry derived from the tensors."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from tokenization.errors import InputError

NUM_GROUPS = 32
"""Groups of the norms: the only number that no tensor shows. All three projects use 32."""
PARTS = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "spatial_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
}
"""Maps diffusers' names to those of the three projects."""


@dataclass(frozen=True)
class Names:
    """One project's names.

    Attributes:
        down, up: names of the encoder's and the decoder's levels.
        resnet, attention: names of a level's blocks.
        mid_resnets, mid_attention: names of the blocks in the middle.
        up_from_finest: True if the decoder's levels are numbered from the highest resolution, as the encoder's are.
        codebook: name of the codebook's module.
    """

    down: str
    up: str
    resnet: str
    attention: str
    mid_resnets: tuple[str, str]
    mid_attention: str
    up_from_finest: bool
    codebook: str = "quantize.embedding"

    def source(self, name: str, num_levels: int) -> str:
        """The project's name for the tensor that diffusers calls `name`."""
        for own, theirs in PARTS.items():
            name = name.replace(f".{own}.", f".{theirs}.")
        match name.split("."):
            case [half, "down_blocks" | "up_blocks", level, "resnets" | "attentions" as kind, number, *tail]:
                block = self.resnet if kind == "resnets" else self.attention
                found = [half, *self._level(half, int(level), num_levels), block, number, *tail]
            case [half, "down_blocks" | "up_blocks", level, *tail]:
                found = [half, *self._level(half, int(level), num_levels), *tail]
            case [half, "mid_block", "resnets", number, *tail]:
                found = [half, self.mid_resnets[int(number)], *tail]
            case [half, "mid_block", "attentions", _, *tail]:
                found = [half, self.mid_attention, *tail]
            case ["quantize", "embedding", *tail]:
                found = [self.codebook, *tail]
            case found:
                pass
        return ".".join(found)

    def _level(self, half: str, level: int, num_levels: int) -> tuple[str, str]:
        if half == "encoder":
            return self.down, str(level)
        return self.up, str(num_levels - 1 - level if self.up_from_finest else level)


TAMING = Names("down", "up", "block", "attn", ("mid.block_1", "mid.block_2"), "mid.attn_1", up_from_finest=True)
"""Names in taming-transformers, open-muse and MoVQGAN."""
GUMBEL = replace(TAMING, codebook="quantize.embed")
"""Names in taming-transformers' VQ-GANs with a Gumbel-softmax codebook."""
LLAMAGEN = Names("conv_blocks", "conv_blocks", "res", "attn", ("mid.0", "mid.2"), "mid.1", up_from_finest=False)


def geometry_of(tensors: dict[str, Tensor], names: Names, location: str) -> dict[str, Any]:
    """The config of the `VQModel` that has these tensors.

    Raises:
        InputError: a tensor that is needed to derive it is missing, or no `VQModel` has such a geometry.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise InputError(
                f"VQ-GAN {location!r}: tensor {name!r} is missing; the file is truncated or of another architecture"
            )
        return tuple(tensors[name].shape)

    def levels(prefix: str) -> tuple[list[int], list[int], list[bool]]:
        """Widths, numbers of resnets, and presence of attention, by level."""
        own = [name.removeprefix(prefix).split(".") for name in tensors if name.startswith(prefix)]
        widths, resnets, attention = [], [], []
        for level in range(1 + max((int(parts[0]) for parts in own), default=0)):
            blocks = {int(parts[2]) for parts in own if parts[:2] == [str(level), names.resnet]}
            widths.append(shape(f"{prefix}{level}.{names.resnet}.{max(blocks, default=0)}.conv2.weight")[0])
            resnets.append(len(blocks))
            attention.append(any(parts[:2] == [str(level), names.attention] for parts in own))
        return widths, resnets, attention

    down_widths, down_resnets, down_attention = levels(f"encoder.{names.down}.")
    up_widths, up_resnets, up_attention = levels(f"decoder.{names.up}.")
    if names.up_from_finest:
        up_widths, up_resnets, up_attention = up_widths[::-1], up_resnets[::-1], up_attention[::-1]
    if down_widths != up_widths[::-1] or max(up_resnets) != max(down_resnets) + 1:
        raise InputError(
            f"VQ-GAN {location!r} has a decoder of widths {up_widths[::-1]} and {max(up_resnets)} blocks a level, an "
            f"encoder of {down_widths} and {max(down_resnets)}; only a decoder of the same widths with one block more "
            "is supported"
        )
    codebook_size, embed_dim = shape(f"{names.codebook}.weight")
    out_channels, in_channels = shape("decoder.conv_out.weight")[0], shape("encoder.conv_in.weight")[1]
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "block_out_channels": down_widths,
        "down_block_types": [f"{'Attn' if has else ''}DownEncoderBlock2D" for has in down_attention],
        "up_block_types": [f"{'Attn' if has else ''}UpDecoderBlock2D" for has in up_attention],
        "layers_per_block": max(down_resnets),
        "mid_block_add_attention": f"encoder.{names.mid_attention}.q.weight" in tensors,
        "latent_channels": shape("encoder.conv_out.weight")[0],
        "vq_embed_dim": embed_dim,
        "num_vq_embeddings": codebook_size,
        "norm_num_groups": NUM_GROUPS,
        "norm_type": "spatial" if "decoder.norm_out.conv_y.weight" in tensors else "group",
    }
