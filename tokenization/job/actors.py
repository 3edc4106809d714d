"""The parts of tokenization that run on Ray's workers: reading, encoding, and writing whole shards.

Readers pass chunks to encoders through Ray Data. Encoders pass rows to a writer, chosen by the shard's name. The driver
gets only a few numbers per chunk, no pictures and no codes.
"""

import json
import pickle
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch

from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.samples import readable
from tokenization.errors import InputError, OutageError
from tokenization.files.content import one_line
from tokenization.files.storage import open_storage
from tokenization.job.rows import Chunk, read_chunks
from tokenization.table.manifest import (
    Notes,
    ShardStatistics,
    rejects_name,
    shard_statistics,
    statistics_name,
    stored_values,
    token_name,
    write_json,
)
from tokenization.table.token_table import Fingerprint, write_token_shard
from tokenization.text_tokenizer import load_text_tokenizer
from tokenization.vqgan.image_tokenizer import ImageTokenizer, check_latents


class Reader:
    """Ray Data stage from a shard's name to its chunks. Each row is one encoding batch, so no batch crosses shards."""

    def __init__(
        self, corpus: Corpus, config: TokenizationConfig, text_source: str, text_cache: Any, seed: int
    ) -> None:
        self._corpus, self._config, self._seed = corpus, config, seed
        self._tokenizer = load_text_tokenizer(text_source, text_cache)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        for shard in batch["shard"]:
            index = 0
            try:
                for chunk in read_chunks(self._corpus, str(shard), self._config, self._tokenizer, self._seed):
                    index = chunk.index + 1
                    yield {"chunk": [pickle.dumps(chunk)]}
            except Exception as error:  # one bad shard must not end the job
                message = (
                    str(error) if isinstance(error, InputError | OutageError) else f"{type(error).__name__}: {error}"
                )
                ended = Chunk(str(shard), index, np.zeros(0, np.uint8), last=True, error=one_line(readable(message)))
                yield {"chunk": [pickle.dumps(ended)]}


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


class Writer:
    """Actor that collects the chunks of its shards and writes each shard once it is complete.

    If it dies, its chunks are lost, and the driver has the shards read again.
    """

    def __init__(self, output: str, fingerprint: Fingerprint) -> None:
        self._output, self._fingerprint = open_storage(output), fingerprint
        self._chunks: dict[str, dict[int, tuple[list[dict], list[dict], Notes]]] = {}

    def add(
        self, shard: str, index: int, rows: list[dict[str, Any]], rejects: list[dict[str, str]], notes: Notes
    ) -> None:
        """Stores one chunk. A repeated chunk replaces the first: an encoder may have died after it sent it."""
        self._chunks.setdefault(shard, {})[index] = (rows, rejects, notes)

    def finish(self, shard: str, num_chunks: int) -> ShardStatistics | None:
        """Writes the shard, its tokens last: a shard counts as done once they are there.

        Returns:
            None if chunks were lost; then nothing is written.
        """
        chunks = self._chunks.pop(shard, {})
        if sorted(chunks) != list(range(num_chunks)):
            return None
        rows = [row for index in sorted(chunks) for row in chunks[index][0]]
        rejects = [reject for index in sorted(chunks) for reject in chunks[index][1]]
        notes = Notes()
        for index in sorted(chunks):
            notes.add(chunks[index][2])
        statistics = shard_statistics(rows, rejects, notes, self._fingerprint.codebook_size)
        if rejects:
            lines = "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects)
            self._output.write(rejects_name(shard), lambda path: path.write_text(lines, encoding="utf-8"))
        else:
            self._output.delete(rejects_name(shard))
        write_json(self._output, statistics_name(shard), stored_values(statistics))
        self._output.write(token_name(shard), lambda path: write_token_shard(path, rows, self._fingerprint))
        return statistics

    def drop(self, shard: str) -> None:
        """Discards the chunks of a shard that could not be read to its end."""
        self._chunks.pop(shard, None)


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


def writer_of(shard: str, num_writers: int) -> int:
    """The index of a shard's writer, the same in every process."""
    return zlib.crc32(shard.encode()) % num_writers
