"""Encoding pictures on Ray's workers with the VQ-GAN. The driver, which imports this module, too, needs no torch."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.errors import InputError
from tokenization.job.checked import keep, known, vqgan_files_sha256
from tokenization.job.chunk import SentChunk
from tokenization.job.encoding import Codes, EncodingStage
from tokenization.job.rows import Tools

if TYPE_CHECKING:
    from tokenization.vqgan.image_tokenizer import ImageTokenizer


class Encoder(EncodingStage):
    """The stage with the VQ-GAN."""

    def __init__(self, config: TokenizationConfig, vq_folder: Any, workers: Workers, writers: list[Any]) -> None:
        super().__init__(config, vq_folder, workers, writers)
        self._vqgan = load_encoder(config, vq_folder, workers)

    def codes_of(self, chunk: SentChunk) -> Codes:
        """See `EncodingStage`. The last batch of a shard, and that of the high resolution, is padded."""
        codes = self._checked(chunk.pixels)[: chunk.num_rows]
        if chunk.pixels_hr is None:
            return codes, None
        at_once, high = self._config.encode_batch_size_hr, list[np.ndarray]()
        for start in range(0, len(chunk.pixels_hr), at_once):
            part = chunk.pixels_hr[start : start + at_once]
            padded = np.zeros((at_once, *part.shape[1:]), np.uint8)
            padded[: len(part)] = part
            high.append(self._checked(padded)[: len(part)])
        return codes, np.concatenate(high)

    def _checked(self, pixels: np.ndarray) -> np.ndarray:
        codes = self._vqgan.encode(pixels)
        if codes.min() < 0 or codes.max() >= self._vqgan.codebook_size:
            raise AssertionError(f"codes {codes.min()}..{codes.max()} outside the codebook")
        return codes.astype(np.uint16)


def load_encoder(config: TokenizationConfig, vq_folder: Any, workers: Workers) -> "ImageTokenizer":
    """Loads the image tokenizer with a job's settings."""
    import torch

    from tokenization.vqgan.image_tokenizer import ImageTokenizer

    device = "cuda" if workers.use_gpu else "cpu"
    compiled = workers.use_gpu and workers.compile_encoder
    return ImageTokenizer(vq_folder, device, getattr(torch, config.encoder_dtype), compiled)


def check_encoder(config: TokenizationConfig, tools: Tools, workers: Workers) -> None:
    """Encodes test pictures as the job will, before it begins: on a GPU if the encoders have one, in their dtype. On
    CPUs it is done once for a VQ-GAN with these settings.

    Raises:
        InputError: see `check_latents`.
    """
    vq_folder = tools.vq_folder
    if not workers.use_gpu:
        decided_by = ["encoder", vqgan_files_sha256(vq_folder), config.encoder_dtype, config.size_px, config.size_hr_px]
        if known(tools.text_cache, decided_by):
            return
        if problem := _encoder_problem(config, vq_folder, workers):
            raise InputError(problem)
        keep(tools.text_cache, decided_by, {"is_fit": True})
        return
    task = ray.remote(
        num_cpus=0,
        num_gpus=1,
        resources=workers.encoder_resources,
        label_selector=workers.encoder_label_selector,
    )(_encoder_problem)
    if problem := ray.get(task.remote(config, vq_folder, workers)):
        raise InputError(problem)


def _encoder_problem(config: TokenizationConfig, vq_folder: Any, workers: Workers) -> str:
    from tokenization.vqgan.image_tokenizer import check_latents

    vqgan = load_encoder(config, vq_folder, replace(workers, compile_encoder=False))
    sizes = [size_px for size_px in (config.size_px, config.size_hr_px) if size_px]
    try:
        check_latents(vq_folder, vqgan, sizes)
    except InputError as error:
        return str(error)
    return ""
