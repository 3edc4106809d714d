"""The latents before quantization starts: their initialization, their noise, and the first codes.

Shape letters: N latents, D their channels, F channels of the encoder's last features.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenization.config.vqgan import VqganConfig
from tokenization.dtypes import fast_autocast
from tokenization.vqgan.data import scale_batch
from tokenization.vqgan.model import Autoencoder, TrainedVqgan

CLUSTERED_BATCHES = 128
"""Number of batches whose latents k-means clusters into the first codes."""
SPREAD_BATCHES = 32
"""Number of batches from which the principal components of the first latents are computed."""


@torch.no_grad()
def spread_latents(
    model: Autoencoder, config: VqganConfig, batches: Iterator[Tensor], device: torch.device, generator: torch.Generator
) -> None:
    """Initializes the latents as whitened principal components of the encoder's last features.

    Random projections would all follow lightness, and their hues would be lost in bfloat16's rounding.
    """
    features = []
    last = model.vqgan.encoder.conv_out
    hook = last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].movedim(1, -1).flatten(0, 2)))
    for _ in range(SPREAD_BATCHES):
        model.encode(scale_batch(next(batches).to(device), config, generator) * 2 - 1)
    hook.remove()
    features_NF = gathered(torch.cat(features))
    variance_F, directions_FF = torch.linalg.eigh(covariance(features_NF))
    strongest = slice(-config.latent_channels, None)
    into_DF = (directions_FF[:, strongest] / variance_F[strongest].sqrt()).T.float()
    nn.init.zeros_(last.weight)
    centre = last.kernel_size[0] // 2
    last.weight[:, :, centre, centre] = into_DF
    bias_of(last).copy_(-into_DF @ features_NF.mean(0))
    for conv in (model.vqgan.quant_conv, model.vqgan.post_quant_conv):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(bias_of(conv))


def latent_noise(latents_ND: Tensor, std: float) -> Tensor:
    """Gaussian noise with the latents' covariance times `std` squared, [N, D]. Gradients reach the covariance."""
    with torch.autocast(latents_ND.device.type, enabled=False):
        return std * torch.randn_like(latents_ND) @ covariance_root(latents_ND).T


@torch.no_grad()
def cluster_latents(
    model: Autoencoder, config: VqganConfig, batches: Iterator[Tensor], device: torch.device, generator: torch.Generator
) -> None:
    """Whitens the latents, and clusters those of the next `CLUSTERED_BATCHES` batches of all ranks into the first
    codes."""
    latents = []
    for _ in range(CLUSTERED_BATCHES):
        images = scale_batch(next(batches).to(device), config, generator)
        with fast_autocast(device):
            latents.append(model.encode(images * 2 - 1).flatten(0, 2))
    model.codebook.cluster(whiten(model.vqgan, gathered(torch.cat(latents))), generator)


@torch.no_grad()
def whiten(vqgan: TrainedVqgan, latents_ND: Tensor) -> Tensor:
    """Changes the latents' coordinates to mean zero and unit covariance; the decoded pictures do not change.

    Distances to codes then weight every direction equally. Returns the latents in the new coordinates.
    """
    mean_D, root_DD = latents_ND.mean(0), covariance_root(latents_ND)
    into, out = vqgan.quant_conv, vqgan.post_quant_conv
    inverse_DD = torch.linalg.inv(root_DD)
    bias_of(out).add_(out.weight[:, :, 0, 0] @ mean_D)
    out.weight.copy_((out.weight[:, :, 0, 0] @ root_DD)[:, :, None, None])
    bias_of(into).copy_(inverse_DD @ (bias_of(into) - mean_D))
    into.weight.copy_((inverse_DD @ into.weight[:, :, 0, 0])[:, :, None, None])
    whitened_ND: Tensor = (latents_ND - mean_D) @ inverse_DD.T
    return whitened_ND


def bias_of(convolution: nn.Conv2d) -> Tensor:
    """The bias of a convolution that has one."""
    assert convolution.bias is not None
    return convolution.bias


def whitened_parameters(vqgan: TrainedVqgan) -> list[nn.Parameter]:
    """The weights that `whiten` changes."""
    return [*vqgan.quant_conv.parameters(), *vqgan.post_quant_conv.parameters()]


def covariance_root(latents_ND: Tensor) -> Tensor:
    """The Cholesky factor of the latents' covariance, float32 [D, D]."""
    root_DD: Tensor = torch.linalg.cholesky(covariance(latents_ND)).float()
    return root_DD


def covariance(latents_ND: Tensor) -> Tensor:
    """The covariance, float64 [D, D], plus a millionth of its mean variance in every direction, so that it is
    invertible."""
    centred_ND = (latents_ND - latents_ND.mean(0)).double()
    covariance_DD = centred_ND.T @ centred_ND / len(centred_ND)
    floor = 1e-6 * covariance_DD.diagonal().mean().detach()
    return covariance_DD + floor * torch.eye(len(covariance_DD)).to(covariance_DD)


def gathered(latents_ND: Tensor) -> Tensor:
    """The latents of all ranks, in rank order, on every rank."""
    if not dist.is_initialized():
        return latents_ND
    shares = [torch.empty_like(latents_ND) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, latents_ND.contiguous())
    return torch.cat(shares)
