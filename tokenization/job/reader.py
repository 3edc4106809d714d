"""Reading and decoding on Ray's workers. A reader imports no torch: there are many on a node."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.samples import readable
from tokenization.errors import InputError, OutageError
from tokenization.files.content import one_line
from tokenization.files.room import is_full
from tokenization.files.storage import open_storage
from tokenization.job.chunk import Chunk, sent
from tokenization.job.decoding import PartReaders
from tokenization.job.rows import Tools, read_chunks
from tokenization.table.shard_statistics import is_done
from tokenization.text_tokenizer import load_fast_text_tokenizer


class Reader:
    """Ray Data stage from shards' names to their chunks. Each row is one encoding batch, so no batch crosses shards."""

    def __init__(
        self,
        corpus: Corpus,
        output: str,
        config: TokenizationConfig,
        tools: Tools,
        workers: Workers,
        part_readers: int,
        seed: int,
    ) -> None:
        self._corpus, self._output, self._config, self._seed = corpus, open_storage(output), config, seed
        self._workers, self._part_readers = workers, part_readers
        self._tokenizer = load_fast_text_tokenizer(tools.text_source, tools.text_cache)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        shards = [str(shard) for names in batch["shards"] for shard in names]
        for shard in shards:
            index = 0
            if len(shards) > 1 and is_done(self._output, shard):
                continue  # this task was begun before, by a reader that died
            try:
                for chunk in timed(self._chunks(shard)):
                    index = chunk.index + 1
                    yield {"chunk": [sent(chunk)]}
            except Exception as error:  # one bad shard must not end the job
                if is_full(error):
                    raise  # all others would meet it, too
                message = (
                    str(error) if isinstance(error, InputError | OutageError) else f"{type(error).__name__}: {error}"
                )
                ended = Chunk(shard, index, np.zeros(0, np.uint8), last=True, error=one_line(readable(message)))
                yield {"chunk": [sent(ended)]}

    def _chunks(self, shard: str) -> Iterator[Chunk]:
        """The shard's chunks; of a large one the pictures are decoded by part readers, too."""
        read = partial(read_chunks, self._corpus, shard, self._config, self._tokenizer, self._seed)
        if not self._part_readers or self._corpus.size(shard) < self._workers.large_shard_bytes:
            yield from read()
            return
        with_high = bool(self._config.size_hr_px) and not self._config.hr_where
        settings = (self._config.transform, with_high, self._part_readers, self._workers)
        with PartReaders(*settings) as decoder:
            yield from read(decoder)


def timed(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Notes in each chunk how long it took, without the time for which nobody asked for the next one."""
    began = time.monotonic()
    for chunk in chunks:
        chunk.read_s = time.monotonic() - began
        yield chunk
        began = time.monotonic()
