"""The initial VQ-GAN for training, as an autoencoder with accessible latents, and its discriminator.

Shape letters: B images, H and W pixels, h and w code grid, D latent channels, N = B*h*w vectors.
"""

from typing import TypeAlias

import torch
from diffusers import VQModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from tokenization.config.vqgan import VqganConfig
from tokenization.errors import InputError
from tokenization.vqgan.codebook import Codebook
from tokenization.vqgan.formats import load_vqgan
from tokenization.vqgan.pixel_shuffle_network import PixelShuffleNetwork
from tokenization.vqgan.vqgan_format import SYMMETRIC

TrainedVqgan: TypeAlias = VQModel | PixelShuffleNetwork
"""An architecture that can be trained. Both name their parts alike."""


def build_vqgan(config: VqganConfig) -> TrainedVqgan:
    """Builds an untrained VQ-GAN of the config's architecture."""
    if config.architecture == "pixel_shuffle":
        network = PixelShuffleNetwork(config.pixel_shuffle_sizes)
        nn.init.uniform_(network.quantize.embedding.weight, -1 / config.codebook_size, 1 / config.codebook_size)
        return network
    return build_vqmodel(config)


def build_vqmodel(config: VqganConfig) -> VQModel:
    """Builds an untrained diffusers `VQModel` with factor 2^(number of blocks - 1)."""
    blocks = len(config.block_out_channels)
    vqgan = VQModel(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        vq_embed_dim=config.latent_channels,
        num_vq_embeddings=config.codebook_size,
        norm_num_groups=config.norm_num_groups,
        mid_block_add_attention=False,
        sample_size=config.image_size_px,
    )
    carry_colours(vqgan)
    return vqgan


@torch.no_grad()
def carry_colours(vqgan: VQModel) -> None:
    """Initializes the residual stream as a linear pyramid: means of 2x2 pixels down, copies up, residual branches zero.

    With torch's default initialization each convolution shrinks the signal relative to its bias, lightness reaches the
    latents first, and training never learns the hues. Zero residual branches are from Goyal 2017; a stream that
    averages down and copies up is the shortcut of DC-AE (Chen 2024), here used as an initialization only.
    """
    for module in vqgan.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                nn.init.orthogonal_(module.conv_shortcut.weight)
                nn.init.zeros_(module.conv_shortcut.bias)
        elif isinstance(module, Downsample2D):
            channels = torch.eye(module.conv.out_channels)
            nn.init.zeros_(module.conv.weight)
            nn.init.zeros_(module.conv.bias)
            module.conv.weight[:, :, :2, :2] = channels[:, :, None, None] / 4
        elif isinstance(module, Upsample2D):
            nn.init.dirac_(module.conv.weight)
            nn.init.zeros_(module.conv.bias)


LATENT_PARTS = ("encoder.conv_out.", "quant_conv.", "quantize.", "post_quant_conv.", "decoder.conv_in.")
"""The parts whose shapes depend on the latents."""


def start_vqgan(config: VqganConfig) -> TrainedVqgan:
    """The model that training starts from.

    Raises:
        InputError: `initial_folder` is not a saved VQ-GAN, or does not fit the config.
    """
    model = build_vqgan(config)
    if config.initial_folder:
        initial = load_vqgan(config.initial_folder)
        if initial.pixel_range != SYMMETRIC:
            raise InputError(
                f"VQ-GAN {config.initial_folder!r} has pixels from {initial.pixel_range[0]:g} to "
                f"{initial.pixel_range[1]:g}; training uses -1 to 1. Start from another one"
            )
        if initial.lookup:
            raise InputError(
                f"VQ-GAN {config.initial_folder!r} is of the format {initial.format!r}, whose codes are not the "
                "nearest, as training's are; start from another one"
            )
        own, start = model.state_dict(), initial.model.state_dict()
        other = {name for name in own.keys() | start.keys() if _shape(own.get(name)) != _shape(start.get(name))}
        if {name for name in other if not name.startswith(LATENT_PARTS)}:
            raise InputError(
                f"VQ-GAN {config.initial_folder!r} has another architecture than the recipe's vqgan section; "
                "set architecture, channels and blocks there to those of this VQ-GAN"
            )
        if other and not config.noise_steps:
            raise InputError(
                f"VQ-GAN {config.initial_folder!r} has other latents than the recipe's vqgan section, "
                "and noise_steps is 0; set noise_steps, so that new codes can be learned"
            )
        model.load_state_dict({name: value for name, value in start.items() if name not in other}, strict=False)
    return model


class Autoencoder(nn.Module):
    """The trained part of a VQ-GAN, and its training pass."""

    def __init__(self, vqgan: TrainedVqgan, config: VqganConfig) -> None:
        super().__init__()
        self.vqgan = vqgan
        self.codebook = Codebook(
            config.codebook_size, config.latent_channels, config.codebook_decay, config.dead_code_usage
        )

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Latents before quantization, float32 [B, h, w, D]."""
        latents_BhwD: Tensor = self.vqgan.quant_conv(self.vqgan.encoder(images_BCHW)).float().permute(0, 2, 3, 1)
        return latents_BhwD

    def decode(self, latents_BhwD: Tensor) -> Tensor:
        """Images [B, 3, H, W], float32."""
        images_BCHW: Tensor = self.vqgan.decoder(self.vqgan.post_quant_conv(latents_BhwD.permute(0, 3, 1, 2))).float()
        return images_BCHW


class PatchDiscriminator(nn.Sequential):
    """PatchGAN (Isola 2017): a real-or-generated logit for every patch, [B, 1, H/8, W/8]."""

    def __init__(self, channels: int = 32) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for scale in (1, 2):
            layers += [
                nn.Conv2d(channels * scale, channels * scale * 2, 4, 2, 1),
                nn.GroupNorm(8, channels * scale * 2),
            ]
            layers += [nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(channels * 4, 1, 3, 1, 1))


def _shape(value: Tensor | None) -> object:
    return None if value is None else value.shape
