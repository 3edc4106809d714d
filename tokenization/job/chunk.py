"""The rows that a reader passes to an encoder, and an encoder to a writer."""

import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenization.table.shard_statistics import Notes
from tokenization.table.token_writing import PackedRows, pack_rows


@dataclass
class Chunk:
    """Up to `encode_batch_size` rows of one shard.

    `pixels` uint8 [encode_batch_size, S, S, 3], padded with zeros; `rows` without their codes;
    `pixels_hr` uint8 [n, S_hr, S_hr, 3], and `places_hr` the indices of their rows; `rejects` since the previous chunk;
    `notes` since the previous chunk; `last` is True in the shard's last chunk; `error` is set if the shard cannot be
    read; `read_s` is how long the reader took for it.
    """

    shard: str
    index: int
    pixels: np.ndarray
    rows: list[dict[str, Any]] = field(default_factory=list)
    pixels_hr: np.ndarray | None = None
    places_hr: list[int] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    last: bool = False
    error: str = ""
    read_s: float = 0.0


@dataclass(frozen=True)
class SentChunk:
    """A chunk on its way to an encoder, for which `books` is sealed. `num_rows` is the number of rows; for the other
    attributes see `Chunk`."""

    shard: str
    index: int
    num_rows: int
    pixels: np.ndarray
    pixels_hr: np.ndarray | None
    places_hr: list[int]
    last: bool
    error: str
    books: bytes
    read_s: float


@dataclass(frozen=True)
class EncodedChunk:
    """A chunk on its way to its writer: `codes` uint16 [num_rows, N], and `codes_hr` [n, N_hr] of the rows at
    `places_hr`; for the other attributes see `SentChunk`."""

    shard: str
    index: int
    codes: np.ndarray
    codes_hr: np.ndarray | None
    places_hr: list[int]
    last: bool
    error: str
    books: bytes
    read_s: float


@dataclass(frozen=True)
class ChunkBooks:
    """What a reader tells a writer of a chunk; see `Chunk`."""

    rows: PackedRows
    rejects: list[dict[str, str]]
    notes: Notes


def sent(chunk: Chunk) -> bytes:
    """The pickle of a `SentChunk`. In this protocol pixels are copied once."""
    books = _dumped(ChunkBooks(pack_rows(chunk.rows), chunk.rejects, chunk.notes))
    rest = (chunk.pixels, chunk.pixels_hr, chunk.places_hr, chunk.last, chunk.error, books, chunk.read_s)
    return _dumped(SentChunk(chunk.shard, chunk.index, len(chunk.rows), *rest))


def books_of(chunk: EncodedChunk) -> ChunkBooks:
    """Opens what the reader told."""
    books: ChunkBooks = pickle.loads(chunk.books)
    return books


def _dumped(value: object) -> bytes:
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
