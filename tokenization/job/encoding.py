"""The stage that encodes, without its encoder: chunks come from readers in blocks, and go to writers with their codes.

The driver gets nothing but the number of chunks in a block. Nothing here imports torch.
"""

import pickle
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.errors import InputError
from tokenization.job.chunk import EncodedChunk, SentChunk
from tokenization.job.writer import writer_of

Codes = tuple[np.ndarray, np.ndarray | None]
"""uint16 [n, N] of a chunk's rows, and [m, N_hr] of those with the high resolution, or None."""


class EncodingStage(ABC):
    """Ray Data actor: makes the codes of chunks, and sends all but the pixels to the writers of their shards."""

    def __init__(self, config: TokenizationConfig, vq_folder: Any, workers: Workers, writers: list[Any]) -> None:
        self._config, self._writers = config, writers
        self._threads = ThreadPoolExecutor(2 if workers.use_gpu else 1)

    def __call__(self, block: pa.Table) -> dict[str, list[int]]:
        """Encodes the chunks of a block, one while another is unpickled. Returns their number when the writers have
        them: no chunk is lost but with its writer."""
        began = time.monotonic()
        by_writer: dict[int, list[EncodedChunk]] = {}
        for chunk in self._threads.map(self.encoded, (one.as_buffer() for one in block["chunk"])):
            by_writer.setdefault(writer_of(chunk.shard, len(self._writers)), []).append(chunk)
        share_s = (time.monotonic() - began) / max(1, len(by_writer))
        ray.get([self._writers[number].add.remote(chunks, share_s) for number, chunks in by_writer.items()])
        return {"chunks": [len(block)]}

    def encoded(self, content: pa.Buffer) -> EncodedChunk:
        """Encodes one chunk, of which `sent` has made the content."""
        chunk: SentChunk = pickle.loads(content)
        error, codes, high = chunk.error, np.zeros((0, 0), np.uint16), None
        if chunk.num_rows:
            try:
                codes, high = self.codes_of(chunk)
            except InputError as problem:  # the weights cannot encode these pictures
                error = f"shard {chunk.shard!r}: {problem}"
        rest = (chunk.places_hr, chunk.last, error, chunk.books, chunk.read_s)
        return EncodedChunk(chunk.shard, chunk.index, codes, high, *rest)

    @abstractmethod
    def codes_of(self, chunk: SentChunk) -> Codes:
        """Encodes the pictures of a chunk.

        Raises:
            InputError: the weights cannot encode them.
        """
