"""Actors for measuring what a tokenization costs beside its work: pictures without content, and codes at once.

They import no torch: a machine runs many of them. All else is the job's own: Ray Data, writers, token shards, books.
"""

import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tokenization.config.tokenization import TokenizationConfig
from tokenization.job.chunk import Chunk, SentChunk, sent
from tokenization.job.encoding import Codes, EncodingStage
from tokenization.table.token_table import Fingerprint

NUM_CODES, CODEBOOK_SIZE = 256, 8192
GO, POLL_S = "go", 0.1
CAPTION_IDS = {"en": 20, "zh": 30}
"""Languages of the simulated captions, with the number of their ids."""


def simulated_shard(number: int, num_rows: int) -> str:
    """The name of a shard whose number of pictures a `SimulatedReader` takes from it."""
    return f"{number:06d}_{num_rows}.tar"


class SimulatedReader:
    """In place of `Reader`: yields chunks of black pictures with captions, once there is a file `GO` beside the corpus.
    The shards' files are not read."""

    def __init__(self, corpus: Any, output: str, config: TokenizationConfig, *others: Any) -> None:
        self._config, self._go = config, Path(corpus.source.url).parent / GO

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        while not self._go.exists():
            time.sleep(POLL_S)
        for shard in (str(shard) for names in batch["shards"] for shard in names):
            num_rows = int(PurePosixPath(shard).stem.partition("_")[2])
            for first in range(0, num_rows, self._config.encode_batch_size):
                yield {"chunk": [sent(self._chunk(shard, first, num_rows))]}

    def _chunk(self, shard: str, first: int, num_rows: int) -> Chunk:
        config, size_px = self._config, self._config.size_px
        pixels = np.zeros((config.encode_batch_size, size_px, size_px, 3), np.uint8)
        numbers = range(first, min(first + config.encode_batch_size, num_rows))
        rows = [simulated_row(shard, number) for number in numbers]
        return Chunk(shard, first // config.encode_batch_size, pixels, rows, last=numbers.stop == num_rows)


class NullEncoder(EncodingStage):
    """In place of `Encoder`: the codes are there at once, and differ from row to row."""

    def codes_of(self, chunk: SentChunk) -> Codes:
        """See `EncodingStage`."""
        rows = np.arange(chunk.num_rows, dtype=np.uint32)[:, None] * 97 + chunk.index
        return ((np.arange(NUM_CODES, dtype=np.uint32) * 31 + rows) % CODEBOOK_SIZE).astype(np.uint16), None


def simulated_row(shard: str, number: int) -> dict[str, Any]:
    """A row without its codes, with as many values as one of img2dataset's shards has."""
    captions = [
        {"lang": language, "text": "picture of a thing " * (count // 5), "ids": [number % 7 + 500] * count}
        | {"truncated": False}
        for language, count in CAPTION_IDS.items()
    ]
    return {
        "sample_id": f"{shard}/{number:09d}",
        "captions": captions,
        "width": 512,
        "height": 384,
        "crop": {"left": 64, "top": 0, "side": 384},
        "document": None,
        "url": f"https://example.org/pictures/{number:09d}.jpg",
        "score": number / 1000,
    }


def simulated_fingerprint(config: TokenizationConfig) -> Fingerprint:
    """That of tokens that no encoder has made."""
    return Fingerprint(
        vq_sha256="simulated",
        text_vocabulary_sha256="simulated",
        transform=config.transform.parameters(),
        encoder_dtype=config.encoder_dtype,
        encoder_batch_shape=[config.encode_batch_size, config.size_px, config.size_px, 3],
        codebook_size=CODEBOOK_SIZE,
        num_codes=NUM_CODES,
        max_caption_ids=config.max_caption_ids,
        caption_columns=config.caption_columns,
    )
