"""The network of a VQ-GAN for encoding and decoding: diffusers' `VQModel` with the same tensors under the same names.

diffusers itself trains and saves VQ-GANs. Importing it takes 3.4 s of CPU, more than torch, and every process that
encodes or decodes would pay for it. A test compares both, code by code and pixel by pixel.

Shape letters: B pictures, C channels, H and W rows and columns of a level.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenization.vqgan.network_config import ACTIVATIONS, EPS, SPATIAL_GROUPS, NetworkConfig


class SpatialNorm(nn.Module):
    """A norm that is scaled and shifted, place by place, by the codebook's rows [B, R, h, w] (MoVQ, Zheng 2022)."""

    def __init__(self, channels: int, rows_channels: int) -> None:
        super().__init__()
        self.norm_layer = nn.GroupNorm(SPATIAL_GROUPS, channels, EPS)
        self.conv_y, self.conv_b = (nn.Conv2d(rows_channels, channels, 1) for _ in range(2))

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        resized = F.interpolate(rows, size=hidden.shape[-2:], mode="nearest")
        conditioned: Tensor = self.norm_layer(hidden) * self.conv_y(resized) + self.conv_b(resized)
        return conditioned


def norm_of(channels: int, config: NetworkConfig, rows_channels: int) -> nn.Module:
    """A norm before a convolution; with `rows_channels`, one that takes the codebook's rows, too."""
    if rows_channels:
        return SpatialNorm(channels, rows_channels)
    return nn.GroupNorm(config.norm_num_groups, channels, EPS)


class ResidualBlock(nn.Module):
    """Two convolutions, each after a norm and an activation: [B, C_in, H, W] to [B, C_out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int, config: NetworkConfig, rows_channels: int = 0) -> None:
        super().__init__()
        self.norm1 = norm_of(in_channels, config, rows_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norm_of(out_channels, config, rows_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.activation = ACTIVATIONS[config.act_fn]()

    def forward(self, hidden: Tensor, *rows: Tensor) -> Tensor:
        branch = self.conv1(self.activation(self.norm1(hidden, *rows)))
        branch = self.conv2(self.activation(self.norm2(branch, *rows)))
        if self.conv_shortcut is not None:
            hidden = self.conv_shortcut(hidden)
        added: Tensor = hidden + branch
        return added


class Attention(nn.Module):
    """Attention with one head among all places of a picture, [B, C, H, W], added to its input."""

    def __init__(self, channels: int, config: NetworkConfig, rows_channels: int = 0) -> None:
        super().__init__()
        self.spatial_norm = SpatialNorm(channels, rows_channels) if rows_channels else None
        self.group_norm = None if rows_channels else nn.GroupNorm(config.norm_num_groups, channels, EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, hidden: Tensor, *rows: Tensor) -> Tensor:
        if self.spatial_norm is not None:
            places = self.spatial_norm(hidden, *rows).flatten(2).transpose(1, 2)
        elif self.group_norm is not None:
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

    def __init__(
        self, widths: tuple[int, int], blocks: int, kind: str, config: NetworkConfig, rows_channels: int = 0
    ) -> None:
        super().__init__()
        before, width = widths
        self.resnets = nn.ModuleList(
            ResidualBlock(width if number else before, width, config, rows_channels) for number in range(blocks)
        )
        count = blocks if kind.startswith("Attn") else 0
        self.attentions = nn.ModuleList(Attention(width, config, rows_channels) for _ in range(count))

    def forward(self, hidden: Tensor, *rows: Tensor) -> Tensor:
        for number, block in enumerate(self.resnets):
            hidden = block(hidden, *rows)
            if self.attentions:
                hidden = self.attentions[number](hidden, *rows)
        return hidden


class DownLevel(Level):
    """A level of the encoder; all but the last halve the picture."""

    def __init__(self, widths: tuple[int, int], blocks: int, kind: str, is_last: bool, config: NetworkConfig) -> None:
        super().__init__(widths, blocks, kind, config)
        self.downsamplers = nn.Sequential(*([] if is_last else [Downsample(widths[1])]))

    def forward(self, hidden: Tensor, *rows: Tensor) -> Tensor:
        resized: Tensor = self.downsamplers(super().forward(hidden))
        return resized


class UpLevel(Level):
    """A level of the decoder; all but the last double the picture."""

    def __init__(self, widths: tuple[int, int], blocks: int, kind: str, is_last: bool, config: NetworkConfig) -> None:
        super().__init__(widths, blocks, kind, config, config.rows_channels)
        self.upsamplers = nn.Sequential(*([] if is_last else [Upsample(widths[1])]))

    def forward(self, hidden: Tensor, *rows: Tensor) -> Tensor:
        resized: Tensor = self.upsamplers(super().forward(hidden, *rows))
        return resized


class Middle(nn.Module):
    """Two residual blocks, with attention between them if the config says so."""

    def __init__(self, channels: int, config: NetworkConfig, rows_channels: int = 0) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels, config, rows_channels) for _ in range(2))
        count = 1 if config.mid_block_add_attention else 0
        self.attentions = nn.ModuleList(Attention(channels, config, rows_channels) for _ in range(count))

    def forward(self, hidden: Tensor, *rows: Tensor) -> Tensor:
        first, second = self.resnets
        hidden = first(hidden, *rows)
        for attention in self.attentions:
            hidden = attention(hidden, *rows)
        finished: Tensor = second(hidden, *rows)
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
    """Latents [B, latent_channels, S / factor, S / factor] to pictures [B, 3, S, S]. With spatial norms it takes the
    codebook's rows, [B, channels, S / factor, S / factor], too."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths, last = config.block_out_channels[::-1], len(config.block_out_channels) - 1
        pairs = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], config, config.rows_channels)
        self.up_blocks = nn.ModuleList(
            UpLevel(pair, config.layers_per_block + 1, kind, level == last, config)
            for level, (pair, kind) in enumerate(zip(pairs, config.up_block_types, strict=True))
        )
        self.conv_norm_out = norm_of(widths[-1], config, config.rows_channels)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor, *rows: Tensor) -> Tensor:
        hidden = self.mid_block(self.conv_in(latents), *rows)
        for level in self.up_blocks:
            hidden = level(hidden, *rows)
        pictures: Tensor = self.conv_out(F.silu(self.conv_norm_out(hidden, *rows)))
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
        channels = config.codebook_channels
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, channels, 1)
        self.quantize = Codes(config.num_vq_embeddings, channels)
        self.post_quant_conv = nn.Conv2d(channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, pictures: Tensor) -> Tensor:
        latents: Tensor = self.quant_conv(self.encoder(pictures))
        return latents

    def decode(self, rows: Tensor) -> Tensor:
        given = (rows,) if self.config.rows_channels else ()
        pictures: Tensor = self.decoder(self.post_quant_conv(rows), *given)
        return pictures
