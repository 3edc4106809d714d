"""The network of MaskGIT's VQ-GAN, with the tensors of open-muse's `MaskGitVQGAN` under the same names.

It differs from a `VQModel`: there is no attention and no bias in a block, levels are halved by averaging, and the
decoder has as many blocks a level as the encoder. Where a block changes the width, its shortcut takes the branch, not
the input, as in MaskGIT's own code.

Shape letters: B pictures, C channels, H and W rows and columns of a level.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from tokenization.vqgan.network import EPS, Codes, TokenizerNetwork

NUM_GROUPS = 32
"""Groups of each norm: flax's default."""


@dataclass(frozen=True)
class MaskgitSizes:
    """The sizes of the network.

    Attributes:
        widths: channels of each level, from the finest; every level but the last halves the picture.
        blocks: residual blocks of each level and of the middle.
        channels: of the codebook's rows.
        num_codes: rows of the codebook.
    """

    widths: tuple[int, ...]
    blocks: int
    channels: int
    num_codes: int


class Block(nn.Module):
    """Two convolutions, each after a norm and an activation: [B, C_in, H, W] to [B, C_out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NUM_GROUPS, in_channels, EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(NUM_GROUPS, out_channels, EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes = in_channels != out_channels
        self.nin_shortcut = nn.Conv2d(out_channels, out_channels, 1, bias=False) if changes else None

    def forward(self, hidden: Tensor) -> Tensor:
        branch = self.conv1(F.silu(self.norm1(hidden)))
        branch = self.conv2(F.silu(self.norm2(branch)))
        if self.nin_shortcut is not None:
            hidden = self.nin_shortcut(branch)
        added: Tensor = branch + hidden
        return added


def blocks_of(in_channels: int, out_channels: int, count: int) -> nn.Sequential:
    """Residual blocks in a row, of which the first changes the width."""
    return nn.Sequential(*(Block(out_channels if number else in_channels, out_channels) for number in range(count)))


class Level(nn.Module):
    """The blocks of one resolution."""

    def __init__(self, in_channels: int, out_channels: int, count: int) -> None:
        super().__init__()
        self.block = blocks_of(in_channels, out_channels, count)

    def forward(self, hidden: Tensor) -> Tensor:
        finished: Tensor = self.block(hidden)
        return finished


class UpLevel(Level):
    """A level of the decoder; all but the finest double the picture."""

    def __init__(self, in_channels: int, out_channels: int, count: int, is_finest: bool) -> None:
        super().__init__(in_channels, out_channels, count)
        self.upsample_conv = None if is_finest else nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = super().forward(hidden)
        if self.upsample_conv is not None:
            hidden = self.upsample_conv(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        return hidden


class Encoder(nn.Module):
    """Pictures [B, 3, S, S] to latents [B, channels, S / factor, S / factor]."""

    def __init__(self, sizes: MaskgitSizes) -> None:
        super().__init__()
        widths = sizes.widths
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        pairs = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.down = nn.ModuleList(Level(*pair, sizes.blocks) for pair in pairs)
        self.mid = blocks_of(widths[-1], widths[-1], sizes.blocks)
        self.norm_out = nn.GroupNorm(NUM_GROUPS, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], sizes.channels, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        hidden = self.conv_in(pictures)
        for number, level in enumerate(self.down):
            hidden = level(F.avg_pool2d(hidden, 2) if number else hidden)
        latents: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(hidden))))
        return latents


class Decoder(nn.Module):
    """Rows of the codebook, [B, channels, S / factor, S / factor], to pictures [B, 3, S, S]."""

    def __init__(self, sizes: MaskgitSizes) -> None:
        super().__init__()
        widths = sizes.widths
        self.conv_in = nn.Conv2d(sizes.channels, widths[-1], 3, padding=1)
        self.mid = blocks_of(widths[-1], widths[-1], sizes.blocks)
        pairs = zip((*widths[1:], widths[-1]), widths, strict=True)
        self.up = nn.ModuleList(UpLevel(*pair, sizes.blocks, number == 0) for number, pair in enumerate(pairs))
        self.norm_out = nn.GroupNorm(NUM_GROUPS, widths[0], EPS)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.mid(self.conv_in(rows))
        for level in reversed(self.up):
            hidden = level(hidden)
        pictures: Tensor = self.conv_out(F.silu(self.norm_out(hidden)))
        return pictures


class MaskgitNetwork(TokenizerNetwork):
    """Encoder, codebook and decoder."""

    def __init__(self, sizes: MaskgitSizes) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.quantize = Codes(sizes.num_codes, sizes.channels)
        self.decoder = Decoder(sizes)

    def encode(self, pictures: Tensor) -> Tensor:
        latents: Tensor = self.encoder(pictures)
        return latents

    def decode(self, rows: Tensor) -> Tensor:
        pictures: Tensor = self.decoder(rows)
        return pictures
