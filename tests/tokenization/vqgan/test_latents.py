"""The VQ-GAN's latents hold colours from the first step, in all directions, and codes count these alike."""

import numpy as np
import pytest
import torch
from diffusers import VQModel

from tokenization.config.vqgan import VqganConfig
from tokenization.vqgan.latents import latent_noise, spread_latents, whiten
from tokenization.vqgan.model import Autoencoder, start_vqgan

CONFIG = VqganConfig(
    block_out_channels=(8, 16, 16, 32, 32), latent_channels=8, codebook_size=16, image_size_px=32, crop_share=0.0
)


def plain_pictures(count: int) -> torch.Tensor:
    """Pictures uint8 [count, 3, 64, 64] of one colour each: mostly light or dark, with a hue that is far weaker."""
    generator = torch.Generator().manual_seed(0)
    lightness = torch.rand(count, 1, generator=generator) * 180 + 30
    hue = torch.randn(count, 3, generator=generator) * 10
    return (lightness + hue).clamp(0, 255).byte()[:, :, None, None].expand(-1, -1, 64, 64).contiguous()


@pytest.fixture
def started() -> tuple[VQModel, torch.Tensor]:
    torch.manual_seed(0)
    model = Autoencoder(start_vqgan(CONFIG), CONFIG)
    pictures = plain_pictures(512)
    batches = iter(pictures.split(16))
    spread_latents(model, CONFIG, batches, torch.device("cpu"), torch.Generator().manual_seed(0))
    return model, pictures


@pytest.mark.slow
def test_colours_can_be_read_from_the_first_latents(started: tuple[VQModel, torch.Tensor]) -> None:
    """A picture's red, green and blue, each apart from its lightness, by a linear map from its latents."""
    model, pictures = started
    with torch.no_grad():
        latents = model.encode(pictures[:, :, ::2, ::2].float() / 127.5 - 1).mean((1, 2)).bfloat16().float()
    colours = pictures[:, :, 0, 0].float()
    hues = colours - colours.mean(1, keepdim=True)
    known = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
    read = known[256:] @ torch.linalg.lstsq(known[:256], hues[:256], driver="gelsd").solution
    unexplained = (hues[256:] - read).var(0) / hues[256:].var(0)
    assert (unexplained < 0.3).all(), unexplained


def test_noise_is_equally_strong_in_every_direction_of_the_latents() -> None:
    torch.manual_seed(0)
    latents = torch.randn(20_000, 4) @ torch.diag(torch.tensor([10.0, 3.0, 1.0, 0.3])) @ torch.randn(4, 4)
    noise = latent_noise(latents, 0.5)
    white = torch.linalg.inv(torch.linalg.cholesky(torch.cov(latents.double().T)))
    ratio = torch.cov((noise.double() @ white.T).T)
    np.testing.assert_allclose(ratio, 0.25 * np.eye(4), atol=0.02)


@pytest.mark.slow
def test_whitening_changes_coordinates_and_no_picture(started: tuple[VQModel, torch.Tensor]) -> None:
    model, pictures = started
    images = pictures[:64, :, ::2, ::2].float() / 127.5 - 1
    torch.nn.init.normal_(model.vqgan.quant_conv.weight)
    torch.nn.init.normal_(model.vqgan.quant_conv.bias)
    with torch.no_grad():
        latents = model.encode(images)
        before = model.decode(latents)
        white = whiten(model.vqgan, latents.flatten(0, 2))
        after = model.encode(images)
        torch.testing.assert_close(after.flatten(0, 2), white, atol=1e-2, rtol=1e-2)
        torch.testing.assert_close(model.decode(after), before, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(white.mean(0), torch.zeros(8), atol=1e-2, rtol=0)
    covariance = torch.cov(white.T)
    assert (covariance.diagonal() < 1.1).all()
    assert (covariance - covariance.diag().diag()).abs().max() < 0.05
