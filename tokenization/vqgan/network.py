"""The network of a VQ-GAN for encoding and decoding: diffusers' `VQModel` with the same tensors under the same names.

diffusers itself trains and saves VQ-GANs. Importing it takes 3.4 s of CPU, more than torch, and every process that
encodes or decodes would pay for it. A test compares both, code by code and pixel by pixel.

Shape letters: B pictures, C channels, H and W rows and columns of a level.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
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

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Takes the values of a config.json; others have no influence on the network."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


class ResidualBlock(nn.Module):
    """Two convolutions, each after a norm and an activation: [B, C_in, H, W] to [B, C_out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.norm_num_groups, in_channels, EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(config.norm_num_groups, out_channels, EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.activation = ACTIVATIONS[config.act_fn]()

    def forward(self, hidden: Tensor) -> Tensor:
        branch = self.conv1(self.activation(self.norm1(hidden)))
        branch = self.conv2(self.activation(self.norm2(branch)))
        if self.conv_shortcut is not None:
            hidden = self.conv_shortcut(hidden)
        added: Tensor = hidden + branch
        return added


class Attention(nn.Module):
    """Attention with one head among all places of a picture, [B, C, H, W], added to its input."""

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(config.norm_num_groups, channels, EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, hidden: Tensor) -> Tensor:
        places = self.group_norm(hidden.flatten(2)).transpose(1, 2)
        heads = (projection(places)[:, None] for projection in (self.to_q, self.to_k, self.to_v))
        attended = self.to_out[0](F.scaled_dot_product_attention(*heads)[:, 0])
        added: Tensor = attended.transpose(1, 2).reshape(hidden.shape) + hidden
        return added


class Downsample(nn.Module):
    """Halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, hidden: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(hidden, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """Doubles height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        return doubled


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if the level's type has it."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, kind: str, config: NetworkConfig) -> None:
        super().__init__()
        widths, has_attention = [in_channels, *[out_channels] * (blocks - 1)], kind.startswith("Attn")
        self.resnets = nn.ModuleList(ResidualBlock(width, out_channels, config) for width in widths)
        self.attentions = nn.ModuleList(
            Attention(out_channels, config) if has_attention else nn.Identity() for _ in widths
        )

    def forward(self, hidden: Tensor) -> Tensor:
        for block, attention in zip(self.resnets, self.attentions, strict=True):
            hidden = attention(block(hidden))
        return hidden


class DownLevel(Level):
    """A level of the encoder; all but the last halve the picture."""

    def __init__(self, widths: tuple[int, int], blocks: int, kind: str, is_last: bool, config: NetworkConfig) -> None:
        super().__init__(*widths, blocks, kind, config)
        self.downsamplers = nn.Sequential(*([] if is_last else [Downsample(widths[1])]))

    def forward(self, hidden: Tensor) -> Tensor:
        resized: Tensor = self.downsamplers(super().forward(hidden))
        return resized


class UpLevel(Level):
    """A level of the decoder; all but the last double the picture."""

    def __init__(self, widths: tuple[int, int], blocks: int, kind: str, is_last: bool, config: NetworkConfig) -> None:
        super().__init__(*widths, blocks, kind, config)
        self.upsamplers = nn.Sequential(*([] if is_last else [Upsample(widths[1])]))

    def forward(self, hidden: Tensor) -> Tensor:
        resized: Tensor = self.upsamplers(super().forward(hidden))
        return resized


class Middle(nn.Module):
    """Two residual blocks, with attention between them if the config says so."""

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels, config) for _ in range(2))
        self.attentions = nn.Sequential(*([Attention(channels, config)] if config.mid_block_add_attention else []))

    def forward(self, hidden: Tensor) -> Tensor:
        finished: Tensor = self.resnets[1](self.attentions(self.resnets[0](hidden)))
        return finished


class Encoder(nn.Module):
    """Pictures [B, 3, S, S] to latents [B, latent_channels, S / factor, S / factor]."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths, last = config.block_out_channels, len(config.block_out_channels) - 1
        pairs = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.Sequential(
            *(
                DownLevel(pair, config.layers_per_block, kind, level == last, config)
                for level, (pair, kind) in enumerate(zip(pairs, config.down_block_types, strict=True))
            )
        )
        self.mid_block = Middle(widths[-1], config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        hidden = self.mid_block(self.down_blocks(self.conv_in(pictures)))
        latents: Tensor = self.conv_out(F.silu(self.conv_norm_out(hidden)))
        return latents


class Decoder(nn.Module):
    """Latents [B, latent_channels, S / factor, S / factor] to pictures [B, 3, S, S]."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths, last = config.block_out_channels[::-1], len(config.block_out_channels) - 1
        pairs = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], config)
        self.up_blocks = nn.Sequential(
            *(
                UpLevel(pair, config.layers_per_block + 1, kind, level == last, config)
                for level, (pair, kind) in enumerate(zip(pairs, config.up_block_types, strict=True))
            )
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.up_blocks(self.mid_block(self.conv_in(latents)))
        pictures: Tensor = self.conv_out(F.silu(self.conv_norm_out(hidden)))
        return pictures


class Codes(nn.Module):
    """The codebook, [codes, channels]."""

    def __init__(self, num_codes: int, channels: int) -> None:
        super().__init__()
        # `nn.Embedding(...)` draws values, for which torch imports its compiler on the meta device: a second.
        self.embedding = nn.Embedding.from_pretrained(torch.empty(num_codes, channels), freeze=False)


class TokenizerNetwork(nn.Module):
    """What `ImageTokenizer` needs of a network."""

    quantize: Codes

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, S, S] to the latents that codes are found for, [B, channels, S / factor, S / factor]."""
        raise NotImplementedError

    def decode(self, rows: Tensor) -> Tensor:
        """Rows of the codebook, [B, channels, S / factor, S / factor], to pictures [B, 3, S, S]."""
        raise NotImplementedError


class VqganNetwork(TokenizerNetwork):
    """Encoder, codebook and decoder.

    Args:
        values: of a `VQModel`'s config.json. They are kept as `values`; `config` has what decides the network.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values, self.config = dict(values), NetworkConfig.of(values)
        config = self.config
        channels = config.vq_embed_dim or config.latent_channels
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, channels, 1)
        self.quantize = Codes(config.num_vq_embeddings, channels)
        self.post_quant_conv = nn.Conv2d(channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, pictures: Tensor) -> Tensor:
        latents: Tensor = self.quant_conv(self.encoder(pictures))
        return latents

    def decode(self, rows: Tensor) -> Tensor:
        pictures: Tensor = self.decoder(self.post_quant_conv(rows))
        return pictures
