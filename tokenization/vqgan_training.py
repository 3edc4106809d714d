"""Training of the VQ-GAN: reconstruction, commitment, a codebook by moving averages, optional GAN terms.

Runs without Ray, on a CPU or a GPU, alone or in a `torch.distributed` group (gradients and codebook
statistics are averaged over the ranks). Shape letters: B images, H and W pixels, h and w code grid,
D latent channels, N = B*h*w vectors, K codes.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import VQModel
from torch import Tensor, nn

from tokenization.codebook import Codebook
from tokenization.errors import InputError
from tokenization.image_tokenizer import check_image_tokenizer

STATE_FILE = "training_state.pt"
CLUSTERED_BATCHES = 128
"""Batches whose latents k-means groups into the first codes."""


@dataclass(frozen=True)
class VqganConfig:
    """Architecture and schedule. The schedule is warmup, constant, then linear decay to zero."""

    initial_folder: str = ""
    """Start from the weights of this saved VQ-GAN instead of from random ones. It may have other latents: what
    depends on `latent_channels` and `codebook_size` then starts anew, and needs `noise_steps`."""
    image_size_px: int = 128
    block_out_channels: tuple[int, ...] = (16, 32, 64, 128, 208)
    layers_per_block: int = 1
    latent_channels: int = 8
    codebook_size: int = 8192
    norm_num_groups: int = 8
    steps: int = 8000
    global_batch_size: int = 8
    learning_rate: float = 6e-4
    warmup_steps: int = 100
    decay_steps: int = 7500
    noise_steps: int = 1000
    """The first steps add noise to the latents instead of quantizing them. A codebook that is learned from the
    start, on latents that do not yet hold the colours, never gets to separate them; without noise the latents
    fall into a few dimensions, and quantization then costs what the network never learned to bear."""
    noise_std: float = 0.35
    """Deviation of that noise, as a share of the latents' own. An ideal code for `latent_channels` Gaussian
    channels at log2(`codebook_size`) bits leaves an error of 2^(-bits / channels): 0.32 for 13 bits and 8."""
    decoder_only_steps: int = 1500
    """The last steps train the decoder alone, on codes that no longer move."""
    crop_share: float = 0.2
    """Share of steps on crops of the picture at twice `image_size_px` instead of the whole picture."""
    permuted_share: float = 0.3
    """Share of steps whose pictures have their colour channels permuted, each picture its own way. The drawings are
    mostly yellow and brown; without it the codes keep no other hue."""
    mse_weight: float = 1.0
    l1_weight: float = 0.3
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


def build_vqgan(config: VqganConfig) -> VQModel:
    """An untrained diffusers `VQModel` with factor 2^(number of blocks - 1)."""
    blocks = len(config.block_out_channels)
    return VQModel(
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


LATENT_PARTS = ("encoder.conv_out.", "quant_conv.", "quantize.", "post_quant_conv.", "decoder.conv_in.")
"""The parts of a `VQModel` whose shapes depend on the latents."""


def start_vqgan(config: VqganConfig) -> VQModel:
    """The model that training starts from.

    Raises:
        InputError: `initial_folder` is no saved VQ-GAN, or one that does not fit.
    """
    model = build_vqgan(config)
    if config.initial_folder:
        check_image_tokenizer(config.initial_folder)
        own = model.state_dict()
        start = VQModel.from_pretrained(
            config.initial_folder, local_files_only=True, low_cpu_mem_usage=False
        ).state_dict()
        other = {name for name in own.keys() | start.keys() if _shape(own.get(name)) != _shape(start.get(name))}
        if {name for name in other if not name.startswith(LATENT_PARTS)}:
            raise InputError(
                f"VQ-GAN {config.initial_folder!r} has another architecture than the recipe's vqgan section; "
                "give the section that one's block_out_channels and layers_per_block"
            )
        if other and not config.noise_steps:
            raise InputError(
                f"VQ-GAN {config.initial_folder!r} has other latents than the recipe's vqgan section, "
                "and noise_steps is 0; set noise_steps, so that new codes can be learned"
            )
        model.load_state_dict({name: value for name, value in start.items() if name not in other}, strict=False)
    return model


class Autoencoder(nn.Module):
    """The trained part of a `VQModel`, and the step that goes through it."""

    def __init__(self, vqgan: VQModel, config: VqganConfig) -> None:
        super().__init__()
        self.vqgan = vqgan
        self.codebook = Codebook(
            config.codebook_size, config.latent_channels, config.codebook_decay, config.dead_code_usage
        )

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Latents before quantization, float32 [B, h, w, D]."""
        return self.vqgan.quant_conv(self.vqgan.encoder(images_BCHW)).float().permute(0, 2, 3, 1)

    def decode(self, latents_BhwD: Tensor) -> Tensor:
        """Images [B, 3, H, W], float32."""
        return self.vqgan.decoder(self.vqgan.post_quant_conv(latents_BhwD.permute(0, 3, 1, 2))).float()


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

    clock = time.monotonic()
    for step in range(start_step, config.steps):
        decoder_only = step >= config.steps - config.decoder_only_steps
        quantizing = step >= config.noise_steps
        if step == config.noise_steps > 0:
            cluster_latents(model, config, batches, device, generator)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config)
        images = scale_batch(next(batches).to(device), config, generator)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.set_grad_enabled(not decoder_only):
                latents = model.encode(images * 2 - 1)
            flat = latents.reshape(-1, latents.shape[-1])
            if quantizing:
                index = model.codebook.nearest(flat.detach())
                quantized = model.codebook.codes_KD[index].view_as(latents)
                seen = quantized if decoder_only else latents + (quantized - latents).detach()
            else:
                seen = latents + config.noise_std * flat.std(0).square().mean().sqrt() * torch.randn_like(latents)
            pictures = model.decode(seen) / 2 + 0.5
        loss, parts = reconstruction_loss(config, pictures, images)
        if quantizing and not decoder_only:
            parts["commitment"] = F.mse_loss(latents, quantized)
            loss = loss + config.commitment_weight * parts["commitment"]
        if discriminator and discriminator_optimizer and step >= config.adversarial_start_step:
            with torch.autocast(device.type, torch.bfloat16):
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
            with torch.autocast(device.type, torch.bfloat16):
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
    """The weighted sum and its parts, on pixels in [0, 1]."""
    parts = {"mse": F.mse_loss(pictures, images), "l1": F.l1_loss(pictures, images)}
    loss = config.mse_weight * parts["mse"] + config.l1_weight * parts["l1"]
    if config.perceptual_weight:
        from torchmetrics.functional.image import structural_similarity_index_measure

        similarity = structural_similarity_index_measure(pictures, images, data_range=1.0)
        assert isinstance(similarity, Tensor)
        parts["perceptual"] = 1 - similarity
        loss = loss + config.perceptual_weight * parts["perceptual"]
    return loss, parts


@torch.no_grad()
def cluster_latents(
    model: Autoencoder, config: VqganConfig, batches: Iterator[Tensor], device: torch.device, generator: torch.Generator
) -> None:
    """Makes the first codes out of the latents of the next `CLUSTERED_BATCHES` batches, all ranks' together."""
    latents = []
    for _ in range(CLUSTERED_BATCHES):
        images = scale_batch(next(batches).to(device), config, generator)
        with torch.autocast(device.type, torch.bfloat16):
            latents.append(model.encode(images * 2 - 1).flatten(0, 2))
    model.codebook.cluster(torch.cat(latents), generator)


def scale_batch(pictures: Tensor, config: VqganConfig, generator: torch.Generator) -> Tensor:
    """Pictures uint8 [B, 3, 2H, 2W] as float32 [B, 3, H, W] in [0, 1]: all scaled down, or a crop of each.

    In some steps with their colour channels permuted.
    """
    size = config.image_size_px
    if torch.rand((), generator=generator).item() < config.permuted_share:
        order_B3 = torch.stack([torch.randperm(3, generator=generator) for _ in pictures]).to(pictures.device)
        pictures = pictures.gather(1, order_B3[:, :, None, None].expand_as(pictures))
    if torch.rand((), generator=generator).item() < config.crop_share:
        top, left = torch.randint(size + 1, (2,), generator=generator).tolist()
        return pictures[:, :, top : top + size, left : left + size].float() / 255
    small = F.interpolate(pictures.float(), size=(size, size), mode="bicubic", antialias=True)
    return small.clamp(0, 255) / 255


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


def _shape(value: Tensor | None) -> object:
    return None if value is None else value.shape


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
