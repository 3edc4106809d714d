"""Encoding pictures on Ray's workers with the VQ-GAN."""

from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch

from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.errors import InputError
from tokenization.job.chunk import SentChunk
from tokenization.job.encoding import Codes, EncodingStage
from tokenization.vqgan.image_tokenizer import ImageTokenizer, check_latents


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


def load_encoder(config: TokenizationConfig, vq_folder: Any, workers: Workers) -> ImageTokenizer:
    """Loads the image tokenizer with a job's settings."""
    device = "cuda" if workers.use_gpu else "cpu"
    compiled = workers.use_gpu and workers.compile_encoder
    return ImageTokenizer(vq_folder, device, getattr(torch, config.encoder_dtype), compiled)


def check_encoder(config: TokenizationConfig, vq_folder: Any, workers: Workers) -> None:
    """Encodes test pictures as the job will, before it begins: on a GPU if the encoders have one, in their dtype.

    Raises:
        InputError: see `check_latents`.
    """
    if not workers.use_gpu:
        if problem := _encoder_problem(config, vq_folder, workers):
            raise InputError(problem)
        return
    task = ray.remote(num_cpus=0, num_gpus=1, resources=workers.encoder_resources)(_encoder_problem)
    if problem := ray.get(task.remote(config, vq_folder, workers)):
        raise InputError(problem)


def _encoder_problem(config: TokenizationConfig, vq_folder: Any, workers: Workers) -> str:
    vqgan = load_encoder(config, vq_folder, replace(workers, compile_encoder=False))
    sizes = [size_px for size_px in (config.size_px, config.size_hr_px) if size_px]
    try:
        check_latents(vq_folder, vqgan, sizes)
    except InputError as error:
        return str(error)
    return ""
