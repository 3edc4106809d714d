"""Training of the VQ-GAN: reconstruction, commitment, a codebook by moving averages, optional GAN terms.

Runs without Ray, on a CPU or a GPU, alone or in a `torch.distributed` group (gradients and codebook
statistics are averaged over the ranks). Shape letters: B images, H and W pixels, h and w code grid,
D latent channels, N = B*h*w vectors, K codes.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import VQModel
from torch import Tensor, nn

from tokenization.config.vqgan import VqganConfig
from tokenization.dtypes import fast_autocast
from tokenization.errors import InputError
from tokenization.vqgan.data import recolour, scale_batch
from tokenization.vqgan.latents import cluster_latents, latent_noise, spread_latents, whitened_parameters
from tokenization.vqgan.model import Autoencoder, PatchDiscriminator, start_vqgan

STATE_FILE = "training_state.pt"


def train_vqgan(
    config: VqganConfig,
    batches: Iterator[Tensor],
    output: Path,
    device: torch.device,
    log: Callable[[dict[str, float]], None],
) -> VQModel:
    """Trains on `batches` of pictures at twice the training size, uint8 [B, 3, 2H, 2W], B this rank's share.

    Goes on from `output/training_state.pt` where it exists and was made with the same config, `steps` aside.
    Returns the trained model, its codebook in `quantize.embedding`; only the caller saves it.

    Raises:
        InputError: the state in `output` was made with another config.
    """
    torch.manual_seed(config.seed)
    rank = dist.get_rank() if dist.is_initialized() else 0
    model = Autoencoder(start_vqgan(config), config).to(device)
    if not config.noise_steps:
        model.codebook.take(model.vqgan.quantize.embedding.weight)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    discriminator = PatchDiscriminator().to(device) if config.adversarial_weight else None
    discriminator_optimizer = (
        torch.optim.AdamW(discriminator.parameters(), lr=config.learning_rate, betas=(0.5, 0.9))
        if discriminator
        else None
    )
    _broadcast([model, discriminator])
    generator = torch.Generator().manual_seed(config.seed)

    state_path, start_step = output / STATE_FILE, 0
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        _check_same_config(state["config"], config, state_path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if discriminator and discriminator_optimizer:
            discriminator.load_state_dict(state["discriminator"])
            discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        generator.set_state(state["generator"].cpu())
        start_step = state["step"]
    elif config.noise_steps:
        spread_latents(model, config, batches, device, generator)
        _broadcast([model])

    clock = time.monotonic()
    for step in range(start_step, config.steps):
        decoder_only = step >= config.steps - config.decoder_only_steps
        quantizing = step >= config.noise_steps
        if step == config.noise_steps > 0:
            cluster_latents(model, config, batches, device, generator)
            _broadcast([model])
            for parameter in whitened_parameters(model.vqgan):
                optimizer.state.pop(parameter, None)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config)
        images = scale_batch(next(batches).to(device), config, generator)
        if not quantizing and torch.rand((), generator=generator).item() < config.recoloured_share:
            images = recolour(images, generator)
        with fast_autocast(device):
            with torch.set_grad_enabled(not decoder_only):
                latents = model.encode(images * 2 - 1)
            flat = latents.reshape(-1, latents.shape[-1])
            if quantizing:
                index = model.codebook.nearest(flat.detach())
                quantized = model.codebook.codes_KD[index].view_as(latents)
                seen = quantized if decoder_only else latents + (quantized - latents).detach()
            else:
                seen = latents + latent_noise(flat, config.noise_std).view_as(latents)
            pictures = model.decode(seen) / 2 + 0.5
        loss, parts = reconstruction_loss(config, pictures, images)
        if not decoder_only:
            loss = loss + config.chroma_weight * parts["chroma"]
        if quantizing and not decoder_only:
            parts["commitment"] = F.mse_loss(latents, quantized)
            loss = loss + config.commitment_weight * parts["commitment"]
        if discriminator and discriminator_optimizer and step >= config.adversarial_start_step:
            with fast_autocast(device):
                parts["adversarial"] = -discriminator(pictures).float().mean()
            loss = loss + config.adversarial_weight * parts["adversarial"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        codes = {}
        if quantizing:
            revived = 0 if decoder_only else model.codebook.update(flat.detach(), index, generator)
            codes = {"codes_in_batch": len(index.unique()), "revived": revived}
        if discriminator and discriminator_optimizer and step >= config.adversarial_start_step:
            with fast_autocast(device):
                real, generated = discriminator(images).float(), discriminator(pictures.detach()).float()
            discriminator_optimizer.zero_grad(set_to_none=True)
            (F.relu(1 - real).mean() + F.relu(1 + generated).mean()).backward()
            _average_gradients(list(discriminator.parameters()))
            discriminator_optimizer.step()

        done = step + 1
        if done % config.log_every_steps == 0 or done == config.steps:
            now = time.monotonic()
            log(
                {"step": done, "loss": loss.item()}
                | codes
                | {name: value.item() for name, value in parts.items()}
                | {
                    "psnr_db": -10 * math.log10(parts["mse"].item()),
                    "images_per_s": config.log_every_steps * config.global_batch_size / (now - clock),
                }
            )
            clock = now
        if rank == 0 and (done % config.save_every_steps == 0 or done == config.steps):
            state = {"step": done, "config": asdict(config), "model": model.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "generator": generator.get_state()}
            if discriminator and discriminator_optimizer:
                state["discriminator"] = discriminator.state_dict()
                state["discriminator_optimizer"] = discriminator_optimizer.state_dict()
            torch.save(state, state_path.with_suffix(".partial"))
            os.replace(state_path.with_suffix(".partial"), state_path)

    model.vqgan.quantize.embedding.weight.data.copy_(model.codebook.codes_KD)
    return model.vqgan


def reconstruction_loss(config: VqganConfig, pictures: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum and its parts, on pixels in [0, 1]; `chroma` is not in the sum."""
    error = pictures - images
    parts = {
        "mse": error.square().mean(),
        "l1": error.abs().mean(),
        "chroma": (error - error.mean(1, keepdim=True)).square().mean(),
    }
    loss = config.mse_weight * parts["mse"] + config.l1_weight * parts["l1"]
    if config.perceptual_weight:
        from torchmetrics.functional.image import structural_similarity_index_measure

        similarity = structural_similarity_index_measure(pictures, images, data_range=1.0)
        assert isinstance(similarity, Tensor)
        parts["perceptual"] = 1 - similarity
        loss = loss + config.perceptual_weight * parts["perceptual"]
    return loss, parts


def schedule(step: int, config: VqganConfig) -> float:
    """The learning rate's factor at `step`: warmup, constant, linear decay to zero."""
    return min(1.0, (step + 1) / config.warmup_steps, (config.steps - step) / config.decay_steps)


def _check_same_config(saved: dict, config: VqganConfig, path: Path) -> None:
    free = {"steps", "decay_steps", "decoder_only_steps", "log_every_steps", "save_every_steps"}
    wanted = asdict(config)
    other = {key for key in wanted if key not in free and _plain(saved.get(key)) != _plain(wanted[key])}
    if other:
        raise InputError(
            f"{path} was made with another {', '.join(sorted(other))}; delete it or train into another folder"
        )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    if dist.is_initialized():
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()


def _broadcast(modules: list[nn.Module | None]) -> None:
    if dist.is_initialized():
        for module in filter(None, modules):
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)
