"""Architecture and schedule of the VQ-GAN."""

from dataclasses import dataclass


@dataclass(frozen=True)
class VqganConfig:
    """Architecture and schedule. The schedule is warmup, constant, then linear decay to zero."""

    initial_folder: str = ""
    """Start from the weights of this saved VQ-GAN instead of from random ones. It may have other `latent_channels` and
    another `codebook_size` where there are `noise_steps`: with them the latents start anew in any case."""
    image_size_px: int = 128
    block_out_channels: tuple[int, ...] = (16, 32, 64, 128, 208)
    layers_per_block: int = 1
    latent_channels: int = 8
    codebook_size: int = 8192
    norm_num_groups: int = 8
    steps: int = 5300
    global_batch_size: int = 8
    learning_rate: float = 6e-4
    warmup_steps: int = 100
    decay_steps: int = 3900
    noise_steps: int = 1200
    """The first steps add noise to the latents instead of quantizing them. A codebook that is learned from the
    start, on latents that do not yet hold the colours, never gets to separate them; without noise the latents
    fall into a few dimensions, and quantization then costs what the network never learned to bear."""
    noise_std: float = 0.35
    """Deviation of that noise, as a share of the latents' own in every direction (the noise has their covariance: of
    noise that is equal in all directions, a few strong ones learn to stand out and the others, hues among them, die).
    An ideal code for `latent_channels` Gaussian channels at log2(`codebook_size`) bits leaves an error of
    2^(-bits / channels): 0.32 for 13 bits and 8."""
    decoder_only_steps: int = 1400
    """The last steps train the decoder alone, on codes that no longer move."""
    crop_share: float = 0.2
    """Share of steps on crops of the picture at twice `image_size_px` instead of the whole picture."""
    recoloured_share: float = 0.3
    """Share of the steps with noise whose pictures are recoloured (`recolour`). In flat pictures lightness
    outweighs hue so far that the encoder drops hue within its first hundred steps and never takes it up again."""
    mse_weight: float = 1.0
    l1_weight: float = 0.3
    chroma_weight: float = 6.0
    """Weight, as long as the encoder trains, of the squared error of colour alone (what is left of the error at a pixel
    without its mean over the channels), beside its part in the other two. In the steps with noise alone it was not
    enough: greens came out brown, and the PSNR hid it."""
    commitment_weight: float = 0.25
    perceptual_weight: float = 0.0
    """Weight of 1 - SSIM (torchmetrics)."""
    adversarial_weight: float = 0.0
    """Weight of a patch discriminator's hinge loss, from `adversarial_start_step` on."""
    adversarial_start_step: int = 2000
    codebook_decay: float = 0.995
    dead_code_usage: float = 0.02
    """A code whose moving average of uses a step falls below this is moved onto a random latent of the batch."""
    log_every_steps: int = 50
    save_every_steps: int = 250
    seed: int = 0


OPEN_MUSE = VqganConfig(
    image_size_px=256,
    block_out_channels=(128, 256, 256, 512, 768),
    layers_per_block=2,
    latent_channels=64,
    norm_num_groups=32,
)
"""The geometry of open-muse's `vqgan-f16-8192-laion`; the MARS repository credits open-muse. 216 GFLOP to encode 256 x
256 px."""
