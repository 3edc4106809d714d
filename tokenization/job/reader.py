"""Reading and decoding on Ray's workers. A reader imports no torch: there are many on a node."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.samples import readable
from tokenization.errors import InputError, OutageError
from tokenization.files.content import one_line
from tokenization.files.room import is_full
from tokenization.files.storage import open_storage
from tokenization.job.chunk import Chunk, sent
from tokenization.job.rows import read_chunks
from tokenization.table.shard_statistics import is_done
from tokenization.text_tokenizer import load_text_tokenizer


class Reader:
    """Ray Data stage from shards' names to their chunks. Each row is one encoding batch, so no batch crosses shards."""

    def __init__(
        self, corpus: Corpus, output: str, config: TokenizationConfig, text_source: str, text_cache: Any, seed: int
    ) -> None:
        self._corpus, self._output, self._config, self._seed = corpus, open_storage(output), config, seed
        self._tokenizer = load_text_tokenizer(text_source, text_cache)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        shards = [str(shard) for names in batch["shards"] for shard in names]
        for shard in shards:
            index = 0
            if len(shards) > 1 and is_done(self._output, shard):
                continue  # this task was begun before, by a reader that died
            try:
                for chunk in read_chunks(self._corpus, shard, self._config, self._tokenizer, self._seed):
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
