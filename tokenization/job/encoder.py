"""Encoding pictures on Ray's workers.

Encoders get chunks from readers through Ray Data, and pass rows to a writer, chosen by the name of the shard. The
driver gets only a few numbers per chunk, no pictures and no codes.
"""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch

from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.errors import InputError
from tokenization.job.chunk import Chunk
from tokenization.job.writer import writer_of
from tokenization.vqgan.image_tokenizer import ImageTokenizer, check_latents


class Encoder:
    """Ray Data actor: adds the codes to each chunk's rows, sends the rows to a writer, and yields counts."""

    def __init__(self, config: TokenizationConfig, vq_folder: Any, workers: Workers, writers: list[Any]) -> None:
        self._config, self._writers = config, writers
        self._vqgan = load_encoder(config, vq_folder, workers)
        self._threads = ThreadPoolExecutor(2 if workers.use_gpu else 1)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Encodes chunks and returns a few numbers of each. A GPU encodes one while another is unpickled or sent."""
        counts = list(self._threads.map(self._one, batch["chunk"]))
        names = ("shard", "index", "last", "error", "rows", "rejects")
        return {name: list(values) for name, values in zip(names, zip(*counts, strict=True), strict=True)}

    def _one(self, content: bytes) -> tuple[str, int, bool, str, int, int]:
        chunk: Chunk = pickle.loads(content)
        if chunk.rows:
            try:
                self._encode(chunk)
            except InputError as error:  # the weights cannot encode these pictures
                chunk.error = f"shard {chunk.shard!r}: {error}"
        if not chunk.error:
            writer = self._writers[writer_of(chunk.shard, len(self._writers))]
            ray.get(writer.add.remote(chunk.shard, chunk.index, chunk.rows, chunk.rejects, chunk.notes))
        return chunk.shard, chunk.index, chunk.last, chunk.error, len(chunk.rows), len(chunk.rejects)

    def _encode(self, chunk: Chunk) -> None:
        codes = self._checked(chunk.pixels)
        for row, line in zip(chunk.rows, codes, strict=False):  # the last batch is padded
            row["codes"] = line
        if chunk.pixels_hr is None:
            return
        at_once = self._config.encode_batch_size_hr
        for start in range(0, len(chunk.pixels_hr), at_once):
            part = chunk.pixels_hr[start : start + at_once]
            padded = np.zeros((at_once, *part.shape[1:]), np.uint8)
            padded[: len(part)] = part
            for place, line in zip(chunk.places_hr[start:], self._checked(padded)[: len(part)], strict=False):
                chunk.rows[place]["codes_hr"] = line

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
