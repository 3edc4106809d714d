"""Architecture and schedule of the VQ-GAN."""

from dataclasses import dataclass, fields
from pathlib import Path

from tokenization.config.pixel_shuffle import PixelShuffleSizes

MAX_CODES = 2**16
"""Maximum number of codes of a VQ-GAN: the token table has 16 bits for one."""

PIPELINE_PARTS = ("vqvae", "movq")
"""Folders of the VQ-GAN in a pipeline's folder: aMUSEd's, Kandinsky's."""

WEIGHTS = ("", "ema", "plain")
"""Which weights of a checkpoint with moving averages (EMA): what its project's own code loads, the averages, or the
weights themselves."""


def with_choice(location: Path, choice: str) -> Path:
    """The location of a VQ-GAN with a choice of its weights, one of `WEIGHTS`."""
    return location.with_name(f"{location.name}#{choice}") if choice else location


def split_choice(location: Path) -> tuple[Path, str]:
    """The reverse of `with_choice`."""
    name, _, choice = location.name.rpartition("#")
    return (location.with_name(name), choice) if name and choice in WEIGHTS else (location, "")


ARCHITECTURES = ("vqmodel", "pixel_shuffle")
"""diffusers' `VQModel`, and this project's `PixelShuffleNetwork`."""


@dataclass(frozen=True)
class VqganConfig:
    """Architecture and schedule. The schedule is warmup, constant, then linear decay to zero."""

    initial_folder: str = ""
    """Start from the weights of this saved VQ-GAN instead of random ones. With `noise_steps`, it may have other
    `latent_channels` and another `codebook_size`, because the latents are then initialized again in any case."""
    image_size_px: int = 128
    architecture: str = "vqmodel"
    """One of `ARCHITECTURES`. `block_out_channels`, `layers_per_block` and `norm_num_groups` are a `VQModel`'s;
    `encoder_channels` and the three after it are a `PixelShuffleNetwork`'s."""
    block_out_channels: tuple[int, ...] = (16, 32, 64, 128, 208)
    layers_per_block: int = 1
    norm_num_groups: int = 8
    encoder_channels: tuple[int, ...] = (64, 128, 192)
    """Channels of each level from the finest, which has a quarter of the picture's resolution."""
    encoder_blocks: tuple[int, ...] = (1, 2, 2)
    """Residual blocks of each of these levels."""
    decoder_channels: tuple[int, ...] = (256, 128, 64, 24)
    """Channels of each level from the coarsest, that of the codes."""
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    latent_channels: int = 8
    codebook_size: int = 8192
    steps: int = 5300
    global_batch_size: int = 8
    learning_rate: float = 6e-4
    """AdamW's."""
    muon_learning_rate: float = 0.0
    """Muon's (Jordan 2024), for the convolutions with 16 channels or more on either side; 0 leaves them to AdamW."""
    warmup_steps: int = 100
    decay_steps: int = 3900
    noise_steps: int = 1200
    """Number of first steps that add noise to the latents instead of quantizing them. A codebook that is learned from
    the start, on latents that do not encode the colours yet, never separates them. Without noise the latents collapse
    to a few dimensions, and the network does not learn to tolerate the quantization error."""
    noise_std: float = 0.35
    """Standard deviation of that noise, relative to the latents' own in every direction. The noise has the latents'
    covariance: with isotropic noise a few strong directions grow above it, and the others, hues among them, vanish.
    An ideal code for `latent_channels` Gaussian channels at log2(`codebook_size`) bits leaves an error of
    2^(-bits / channels): 0.32 for 13 bits and 8 channels."""
    decoder_only_steps: int = 1400
    """Number of last steps that train the decoder alone, on fixed codes."""
    crop_share: float = 0.2
    """Share of steps on crops of the picture at twice `image_size_px` instead of the whole picture."""
    large_share: float = 0.0
    """Share of the decoder-only steps on whole pictures at twice `image_size_px`, a quarter as many of them."""
    mirrored_share: float = 0.0
    """Share of the steps, while the encoder trains, whose pictures are mirrored left to right."""
    recoloured_share: float = 0.3
    """Share of the steps with noise whose pictures are recoloured (`recolour`). In flat pictures lightness outweighs
    hue so much that the encoder drops hue within its first hundred steps and never learns it again."""
    quantized_recoloured_share: float = 0.0
    """Share of the steps on quantized latents, while the encoder trains, whose pictures are recoloured: the codes then
    keep colours that the corpus does not have."""
    synthetic_share: float = 0.0
    """Share of the batches that are synthetic drawings (`tokenization.vqgan.synthetic`) instead of the corpus's
    pictures: the codes then keep what other artists draw."""
    mse_weight: float = 1.0
    l1_weight: float = 0.3
    chroma_weight: float = 6.0
    """Weight, while the encoder trains, of the squared error of colour alone (the error at a pixel minus its mean over
    the channels), in addition to its part in the other two losses. It was not enough in the steps with noise alone:
    greens came out brown, which the PSNR did not show."""
    commitment_weight: float = 0.25
    perceptual_weight: float = 0.0
    """Weight of 1 - SSIM (torchmetrics)."""
    adversarial_weight: float = 0.0
    """Weight of a patch discriminator's hinge loss, from `adversarial_start_step` on."""
    adversarial_start_step: int = 2000
    codebook_decay: float = 0.995
    dead_code_usage: float = 0.02
    """A code whose moving average of uses per step falls below this is moved to a random latent of the batch."""
    log_every_steps: int = 50
    save_every_steps: int = 250
    seed: int = 0

    @property
    def pixel_shuffle_sizes(self) -> PixelShuffleSizes:
        """The sizes of the network, if its architecture is `pixel_shuffle`."""
        return PixelShuffleSizes(
            self.encoder_channels,
            self.encoder_blocks,
            self.decoder_channels,
            self.decoder_blocks,
            self.latent_channels,
            self.codebook_size,
        )

    @property
    def factor(self) -> int:
        """Pixels per code along one side."""
        if self.architecture == "pixel_shuffle":
            return self.pixel_shuffle_sizes.factor
        return int(2 ** (len(self.block_out_channels) - 1))

    def problems(self) -> list[str]:
        """Returns the reasons why the settings are invalid; empty if they are valid."""
        found = []
        if self.codebook_size > MAX_CODES:
            found.append(f"codebook_size is {self.codebook_size:,}, but must be at most {MAX_CODES:,}")
        if self.architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            found.append(f"architecture is {self.architecture!r}, but must be one of {known}")
        if problem := self.pixel_shuffle_sizes.problem():
            found.append(problem)
        for name in (field.name for field in fields(self) if field.name.endswith("_share")):
            if not 0 <= (share := getattr(self, name)) <= 1:
                found.append(f"{name} is {share:g}, but must be from 0 to 1")
        return found


PIXEL_SHUFFLE = VqganConfig(
    architecture="pixel_shuffle",
    steps=25_500,
    learning_rate=1e-3,
    muon_learning_rate=0.02,
    decay_steps=9_000,
    noise_steps=5_500,
    noise_std=0.3,
    decoder_only_steps=3_500,
    crop_share=0.3,
    large_share=0.35,
    mirrored_share=0.25,
    recoloured_share=0.25,
    quantized_recoloured_share=0.08,
    l1_weight=0.1,
    chroma_weight=3.0,
)
"""A small VQ-GAN, which two CPU cores train in about two hours."""

OPEN_MUSE = VqganConfig(
    image_size_px=256,
    block_out_channels=(128, 256, 256, 512, 768),
    layers_per_block=2,
    latent_channels=64,
    norm_num_groups=32,
)
"""The geometry of open-muse's `vqgan-f16-8192-laion`; the MARS repository credits open-muse. 216 GFLOP to encode 256 x
256 px."""
