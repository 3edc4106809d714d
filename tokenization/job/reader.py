"""Reading and decoding on Ray's workers. A reader imports no torch: there are many on a node."""

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np

from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.samples import readable
from tokenization.errors import InputError, OutageError
from tokenization.files.content import one_line
from tokenization.files.room import is_full
from tokenization.job.chunk import Chunk
from tokenization.job.rows import read_chunks
from tokenization.text_tokenizer import load_text_tokenizer


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
                if is_full(error):
                    raise  # all others would meet it, too
                message = (
                    str(error) if isinstance(error, InputError | OutageError) else f"{type(error).__name__}: {error}"
                )
                ended = Chunk(str(shard), index, np.zeros(0, np.uint8), last=True, error=one_line(readable(message)))
                yield {"chunk": [pickle.dumps(ended)]}
