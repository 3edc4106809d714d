"""A small, quick network of a VQ-GAN: patches go in and out by pixel unshuffling, and norms are local.

It differs from a `VQModel` in three points. The encoder begins at a quarter of the resolution, on patches of 4 x 4
pixels, and the decoder ends with patches of pixels: no convolution works at full resolution, where a CPU spends most of
its time. Levels change resolution by pixel unshuffling and shuffling (Shi 2016) with a 1 x 1 convolution. A norm is
the root mean square over the channels of one place (Zhang 2019): a code depends on what is near it alone. A group norm
takes its statistics from the whole picture, so that every code changes with each part of it.

Shape letters: B pictures, C channels, H and W rows and columns of a level, D latent channels.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tokenization.config.pixel_shuffle import FIRST_PATCH_PX, PixelShuffleSizes
from tokenization.vqgan.network import Codes, TokenizerNetwork
from tokenization.vqgan.network_config import EPS

CLASS_NAME = "PixelShuffleVqgan"
WEIGHTS_FILE = "model.safetensors"


class LocalNorm(nn.Module):
    """Scales each place to a root mean square of 1 over its channels, [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, hidden: Tensor) -> Tensor:
        places = hidden.permute(0, 2, 3, 1)
        normed = F.rms_norm(places, places.shape[-1:], self.weight.to(places.dtype), EPS)
        return normed.permute(0, 3, 1, 2)


class Block(nn.Module):
    """Adds two convolutions after a norm, [B, C, H, W]. The second one begins as zero (Goyal 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LocalNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        added: Tensor = hidden + self.conv2(F.silu(self.conv1(self.norm(hidden))))
        return added


class Down(nn.Module):
    """[B, C_in, H, W] to [B, C_out, H / factor, W / factor]."""

    def __init__(self, in_channels: int, out_channels: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(in_channels * factor**2, out_channels, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        smaller: Tensor = self.conv(F.pixel_unshuffle(hidden, self.factor))
        return smaller


class Up(nn.Module):
    """[B, C_in, H, W] to [B, C_out, 2 H, 2 W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels * 4, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(hidden), 2)


class Encoder(nn.Module):
    """Pictures [B, 3, S, S] to latents [B, D, S / factor, S / factor]."""

    def __init__(self, sizes: PixelShuffleSizes) -> None:
        super().__init__()
        levels: list[nn.Module] = []
        before = 3
        for number, (channels, blocks) in enumerate(zip(sizes.encoder_channels, sizes.encoder_blocks, strict=True)):
            levels += [
                Down(before, channels, 2 if number else FIRST_PATCH_PX),
                *(Block(channels) for _ in range(blocks)),
            ]
            before = channels
        self.levels = nn.Sequential(*levels)
        self.norm_out = LocalNorm(before)
        self.conv_out = nn.Conv2d(before, sizes.latent_channels, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        latents: Tensor = self.conv_out(self.norm_out(self.levels(_channels_last(pictures))))
        return latents


class Decoder(nn.Module):
    """Latents [B, D, S / factor, S / factor] to pictures [B, 3, S, S]."""

    def __init__(self, sizes: PixelShuffleSizes) -> None:
        super().__init__()
        widths = sizes.decoder_channels
        self.conv_in = nn.Conv2d(sizes.latent_channels, widths[0], 3, padding=1)
        levels: list[nn.Module] = []
        for number, (channels, blocks) in enumerate(zip(widths, sizes.decoder_blocks, strict=True)):
            levels += [Up(widths[number - 1], channels)] if number else []
            levels += [Block(channels) for _ in range(blocks)]
        self.levels = nn.Sequential(*levels)
        self.norm_out = LocalNorm(widths[-1])
        self.last_patch_px = sizes.factor // 2 ** (len(widths) - 1)
        self.conv_out = nn.Conv2d(widths[-1], 3 * self.last_patch_px**2, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.norm_out(self.levels(self.conv_in(_channels_last(latents))))
        return F.pixel_shuffle(self.conv_out(hidden), self.last_patch_px)


class PixelShuffleNetwork(TokenizerNetwork):
    """Encoder, codebook and decoder, with a 1 x 1 convolution on either side of the codebook."""

    def __init__(self, sizes: PixelShuffleSizes) -> None:
        super().__init__()
        self.sizes = sizes
        channels = sizes.latent_channels
        self.encoder = Encoder(sizes)
        self.quant_conv = nn.Conv2d(channels, channels, 1)
        self.quantize = Codes(sizes.codebook_size, channels)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)
        self.decoder = Decoder(sizes)

    def encode(self, pictures: Tensor) -> Tensor:
        latents: Tensor = self.quant_conv(self.encoder(pictures))
        return latents

    def decode(self, rows: Tensor) -> Tensor:
        pictures: Tensor = self.decoder(self.post_quant_conv(rows))
        return pictures

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes `config.json` and the tensors, as they are. `load_vqgan` reads them."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, path / WEIGHTS_FILE)
        config = {"_class_name": CLASS_NAME} | asdict(self.sizes)
        (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _channels_last(hidden: Tensor) -> Tensor:
    """The memory format in which a place's channels lie side by side: the norms need no copy then."""
    return hidden.contiguous(memory_format=torch.channels_last)
