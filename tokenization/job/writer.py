"""Writing whole shards on Ray's workers. A writer imports no torch."""

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenization.files.storage import open_storage
from tokenization.job.chunk import ChunkBooks, EncodedChunk, books_of
from tokenization.job.held_chunks import HeldChunks
from tokenization.table.shard_statistics import (
    ShardCounts,
    ShardStatistics,
    rejects_name,
    statistics_name,
    stored_values,
    token_name,
    write_json,
)
from tokenization.table.token_table import Fingerprint
from tokenization.table.token_writing import EncodedRows, write_encoded_rows


@dataclass
class News:
    """What has come to a writer since it was asked before.

    Attributes:
        rows, rejects: their numbers.
        read_s, encode_s: seconds that readers and encoders took for what came.
        ended: shards that have ended, each with its statistics or the reason why it cannot be read.
    """

    rows: int = 0
    rejects: int = 0
    read_s: float = 0.0
    encode_s: float = 0.0
    ended: list[tuple[str, ShardStatistics | str]] = field(default_factory=list)


class Writer:
    """Actor that collects the chunks of its shards and writes each shard once it is complete.

    If it dies, its chunks are lost, and the driver has the shards read again.
    """

    def __init__(self, output: str, fingerprint: Fingerprint) -> None:
        self._output, self._fingerprint = open_storage(output), fingerprint
        self._chunks: dict[str, HeldChunks] = {}
        self._ended: set[str] = set()
        self._news = News()
        self._problem: Exception | None = None

    def add(self, chunks: list[EncodedChunk], encode_s: float = 0.0) -> None:
        """Takes chunks, for which their encoder took `encode_s`, and writes the shards that they complete. Repeated
        ones are left out: an encoder may have died after it sent them."""
        self._news.encode_s += encode_s
        for chunk in chunks:
            if self._problem or chunk.shard in self._ended:
                continue
            try:
                self._take(chunk)
            except Exception as problem:  # the driver asks for it
                self._problem = problem

    def _take(self, chunk: EncodedChunk) -> None:
        held = self._chunks.get(chunk.shard) or self._chunks.setdefault(chunk.shard, HeldChunks())
        if chunk.index in held:
            return
        held.add(chunk)
        self._news.rows += len(chunk.codes)
        self._news.read_s += chunk.read_s
        if chunk.error:
            self._end(chunk.shard, chunk.error)
        elif held.is_whole:
            self._end(chunk.shard, self._write(chunk.shard, held))

    def news(self) -> News:
        """What has come since the last call.

        Raises:
            Exception: whatever a shard could not be written for.
        """
        if self._problem:
            raise self._problem
        news, self._news = self._news, News()
        return news

    def _end(self, shard: str, how: ShardStatistics | str) -> None:
        self._chunks.pop(shard).close()
        self._ended.add(shard)
        self._news.ended.append((shard, how))

    def _write(self, shard: str, chunks: HeldChunks) -> ShardStatistics:
        """Writes a shard, its tokens last: it counts as done once they are there."""
        counts = ShardCounts(self._fingerprint.codebook_size)
        for chunk in chunks:
            books = books_of(chunk)
            truncated = rows_of(chunk, books).truncated_captions
            counts.add(chunk.codes, len(chunk.places_hr), truncated, books.rejects, books.notes)
        statistics = counts.statistics()
        self._news.rejects += counts.num_rejects
        if counts.num_rejects:
            self._output.write(rejects_name(shard), lambda path: write_rejects(path, chunks))
        else:
            self._output.delete(rejects_name(shard))
        write_json(self._output, statistics_name(shard), stored_values(statistics))
        parts = EncodedParts(chunks)
        self._output.write(token_name(shard), lambda path: write_encoded_rows(path, parts, self._fingerprint))
        return statistics


class EncodedParts:
    """The rows of a shard's chunks, which may be iterated several times."""

    def __init__(self, chunks: Iterable[EncodedChunk]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[EncodedRows]:
        return (rows_of(chunk, books_of(chunk)) for chunk in self._chunks)


def rows_of(chunk: EncodedChunk, books: ChunkBooks) -> EncodedRows:
    return EncodedRows(books.rows, chunk.codes, chunk.codes_hr, chunk.places_hr)


def write_rejects(path: Path, chunks: Iterable[EncodedChunk]) -> None:
    """Writes the rejects of chunks as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for chunk in chunks:
            file.writelines(json.dumps(reject, ensure_ascii=False) + "\n" for reject in books_of(chunk).rejects)


def writer_of(shard: str, num_writers: int) -> int:
    """The index of a shard's writer, the same in every process."""
    return zlib.crc32(shard.encode()) % num_writers
