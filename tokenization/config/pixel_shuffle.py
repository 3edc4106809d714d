"""The sizes of this project's own VQ-GAN network."""

from dataclasses import dataclass

FIRST_PATCH_PX = 4
"""Side of the patches that the encoder's first convolution takes."""


@dataclass(frozen=True)
class PixelShuffleSizes:
    """The sizes of the network.

    Attributes:
        encoder_channels, encoder_blocks: channels and residual blocks of each level, from the finest, which has a
            quarter of the picture's resolution.
        decoder_channels, decoder_blocks: of each level, from the coarsest.
        latent_channels: channels of the latents and of the codebook's rows.
        codebook_size: rows of the codebook.
    """

    encoder_channels: tuple[int, ...]
    encoder_blocks: tuple[int, ...]
    decoder_channels: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    latent_channels: int
    codebook_size: int

    @property
    def factor(self) -> int:
        """Pixels per code along one side."""
        return int(FIRST_PATCH_PX * 2 ** (len(self.encoder_channels) - 1))

    def problem(self) -> str:
        """What is wrong with the sizes; empty if nothing is."""
        for part, channels, blocks in (
            ("encoder", self.encoder_channels, self.encoder_blocks),
            ("decoder", self.decoder_channels, self.decoder_blocks),
        ):
            if not channels or len(channels) != len(blocks):
                return f"{part}_channels and {part}_blocks have {len(channels)} and {len(blocks)} levels; give as many"
            if min(channels) < 1 or min(blocks) < 0:
                return f"{part}_channels must be at least 1, and {part}_blocks at least 0"
        if 2 ** (len(self.decoder_channels) - 1) > self.factor:
            return f"decoder_channels has {len(self.decoder_channels)} levels, too many for the factor {self.factor}"
        return ""
