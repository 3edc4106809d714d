"""Training of the VQ-GAN: reconstruction, commitment, a codebook by moving averages, optional GAN terms.

Runs without Ray, on a CPU or a GPU, alone or in a `torch.distributed` group (gradients and codebook
statistics are averaged over the ranks). Shape letters: B images, H and W pixels, h and w code grid,
D latent channels, N = B*h*w vectors, K codes.
"""

import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tokenization.config.vqgan import VqganConfig
from tokenization.dtypes import fast_autocast
from tokenization.errors import InputError
from tokenization.files.atomic_writing import write_atomically
from tokenization.vqgan.data import large_batch, recolour, scale_batch
from tokenization.vqgan.latents import cluster_latents, latent_noise, spread_latents, whitened_parameters
from tokenization.vqgan.model import Autoencoder, PatchDiscriminator, TrainedVqgan, start_vqgan
from tokenization.vqgan.optimizer import VqganOptimizer

STATE_FILE = "training_state.pt"


def train_vqgan(
    config: VqganConfig,
    batches: Iterator[Tensor],
    output: Path,
    device: torch.device,
    log: Callable[[dict[str, float]], None],
) -> TrainedVqgan:
    """Trains on `batches` of pictures at twice the training size, uint8 [B, 3, 2H, 2W], B this rank's share.

    Resumes from `output/training_state.pt` if it exists and was made with the same config, except for `steps`.
    Returns the trained model, with its codebook in `quantize.embedding`; the caller has to save it.

    Raises:
        InputError: the state in `output` was made with another config.
    """
    torch.manual_seed(config.seed)
    first = not dist.is_initialized() or dist.get_rank() == 0
    training, state_path = _Training(config, device), output / STATE_FILE
    start_step = training.start(state_path, batches)
    clock = time.monotonic()
    for step in range(start_step, config.steps):
        if step == config.noise_steps > 0:
            training.end_noise(batches)
        figures = training.step(step, batches)
        done = step + 1
        if done % config.log_every_steps == 0 or done == config.steps:
            now = time.monotonic()
            images_per_s = config.log_every_steps * config.global_batch_size / (now - clock)
            plain = {name: value.item() if isinstance(value, Tensor) else value for name, value in figures.items()}
            log({"step": done} | plain | {"psnr_db": -10 * math.log10(plain["mse"]), "images_per_s": images_per_s})
            clock = now
        if first and (done % config.save_every_steps == 0 or done == config.steps):
            training.save(state_path, done)
    return training.trained()


class _Training:
    """The models, their optimizers, and the random generators of one training."""

    def __init__(self, config: VqganConfig, device: torch.device) -> None:
        self._config, self._device = config, device
        self._model = Autoencoder(start_vqgan(config), config).to(device)
        if not config.noise_steps:
            self._model.codebook.take(self._model.vqgan.quantize.embedding.weight)
        self._parameters = list(self._model.parameters())
        self._optimizer = VqganOptimizer(self._model, config)
        self._adversary = _Adversary(config.learning_rate, device) if config.adversarial_weight else None
        _broadcast([self._model, *([self._adversary.discriminator] if self._adversary else [])])
        self._generator = torch.Generator().manual_seed(config.seed)

    def start(self, state_path: Path, batches: Iterator[Tensor]) -> int:
        """Resumes from an earlier run's state, or initializes the training. Returns the number of completed steps."""
        if state_path.exists():
            state = torch.load(state_path, map_location=self._device, weights_only=True)
            _check_same_config(state["config"], self._config, state_path)
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            if self._adversary:
                self._adversary.discriminator.load_state_dict(state["discriminator"])
                self._adversary.optimizer.load_state_dict(state["discriminator_optimizer"])
            self._generator.set_state(state["generator"].cpu())
            return int(state["step"])
        if self._config.noise_steps:
            spread_latents(self._model, self._config, batches, self._device, self._generator)
            _broadcast([self._model])
        return 0

    def end_noise(self, batches: Iterator[Tensor]) -> None:
        """Makes the codebook from the encoder's current latents; from here on latents are quantized."""
        cluster_latents(self._model, self._config, batches, self._device, self._generator)
        _broadcast([self._model])
        self._optimizer.forget(whitened_parameters(self._model.vqgan))

    def step(self, step: int, batches: Iterator[Tensor]) -> dict[str, Tensor | int]:
        """Runs one update of everything that is trained at `step`, counted from 0.

        Returns the loss, its parts and statistics of the codes. Tensors stay on the device, so that the host does not
        wait for it.
        """
        config, model = self._config, self._model
        decoder_only = step >= config.steps - config.decoder_only_steps
        quantizing = step >= config.noise_steps
        self._optimizer.set_rates(schedule(step, config))
        images = self._images(batches, quantizing, decoder_only)
        with fast_autocast(self._device):
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
        adversary = self._adversary if step >= config.adversarial_start_step else None
        if adversary:
            parts["adversarial"] = adversary.loss(pictures)
            loss = loss + config.adversarial_weight * parts["adversarial"]
        self._update(loss)
        codes: dict[str, Tensor | int] = {}
        if quantizing:
            revived = 0 if decoder_only else model.codebook.update(flat.detach(), index, self._generator)
            codes = {"codes_in_batch": len(index.unique()), "revived": revived}
        if adversary:
            adversary.learn(images, pictures.detach())
        return {"loss": loss} | codes | parts

    def save(self, state_path: Path, done: int) -> None:
        """Writes the state that `start` reads, atomically."""
        state = {"step": done, "config": asdict(self._config), "model": self._model.state_dict()}
        state |= {"optimizer": self._optimizer.state_dict(), "generator": self._generator.get_state()}
        if self._adversary:
            state["discriminator"] = self._adversary.discriminator.state_dict()
            state["discriminator_optimizer"] = self._adversary.optimizer.state_dict()
        content = io.BytesIO()  # to a file, torch hides why it cannot be written
        torch.save(state, content)
        write_atomically(state_path, lambda partial: partial.write_bytes(content.getbuffer()))

    def trained(self) -> TrainedVqgan:
        """The model, with its codebook in the place where it is saved."""
        self._model.vqgan.quantize.embedding.weight.data.copy_(self._model.codebook.codes_KD)
        return self._model.vqgan

    def _images(self, batches: Iterator[Tensor], quantizing: bool, decoder_only: bool) -> Tensor:
        config, pictures = self._config, next(batches).to(self._device)
        if decoder_only and self._decides(config.large_share):
            return large_batch(pictures)
        images = scale_batch(pictures, config, self._generator)
        if not decoder_only and self._decides(config.mirrored_share):
            images = images.flip(3)
        recoloured = config.quantized_recoloured_share if quantizing else config.recoloured_share
        if not decoder_only and self._decides(recoloured):
            images = recolour(images, self._generator)
        return images

    def _decides(self, share: float) -> bool:
        """True for this share of the calls; a share of 0 draws no number."""
        return share > 0 and torch.rand((), generator=self._generator).item() < share

    def _update(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        _average_gradients(self._parameters)
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()


class _Adversary:
    """The discriminator, which learns to tell the autoencoder's pictures from real ones."""

    def __init__(self, learning_rate: float, device: torch.device) -> None:
        self.discriminator = PatchDiscriminator().to(device)
        self.optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=learning_rate, betas=(0.5, 0.9))
        self._device = device

    def loss(self, pictures: Tensor) -> Tensor:
        """The autoencoder's adversarial loss: low if its pictures are classified as real."""
        with fast_autocast(self._device):
            loss: Tensor = -self.discriminator(pictures).float().mean()
            return loss

    def learn(self, images: Tensor, pictures: Tensor) -> None:
        """Runs one update of the discriminator with the hinge loss."""
        with fast_autocast(self._device):
            real, generated = self.discriminator(images).float(), self.discriminator(pictures).float()
        self.optimizer.zero_grad(set_to_none=True)
        (F.relu(1 - real).mean() + F.relu(1 + generated).mean()).backward()
        _average_gradients(list(self.discriminator.parameters()))
        self.optimizer.step()


def reconstruction_loss(config: VqganConfig, pictures: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted loss and its parts, on pixels in [0, 1]; `chroma` is not included in the sum."""
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
    wanted, saved = asdict(config), asdict(VqganConfig()) | saved  # a setting that came later had its usual value
    other = {key for key in wanted if key not in free and _plain(saved[key]) != _plain(wanted[key])}
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


def _broadcast(modules: list[nn.Module]) -> None:
    if dist.is_initialized():
        for module in modules:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)
