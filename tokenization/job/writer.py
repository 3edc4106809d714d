"""Writing whole shards on Ray's workers. A writer imports no torch."""

import json
import zlib
from dataclasses import dataclass, field

from tokenization.files.storage import open_storage
from tokenization.job.chunk import ChunkBooks, EncodedChunk, books_of
from tokenization.table.shard_statistics import (
    Notes,
    ShardStatistics,
    rejects_name,
    shard_statistics,
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
        self._chunks: dict[str, dict[int, EncodedChunk]] = {}
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
            has = self._chunks.setdefault(chunk.shard, {})
            if chunk.index in has:
                continue
            has[chunk.index] = chunk
            self._news.rows += len(chunk.codes)
            self._news.read_s += chunk.read_s
            if chunk.error:
                self._end(chunk.shard, chunk.error)
            elif _is_whole(has):
                try:
                    self._end(chunk.shard, self._write(chunk.shard, [has[index] for index in sorted(has)]))
                except Exception as problem:  # the driver asks for it
                    self._problem = problem

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
        del self._chunks[shard]
        self._ended.add(shard)
        self._news.ended.append((shard, how))

    def _write(self, shard: str, chunks: list[EncodedChunk]) -> ShardStatistics:
        """Writes a shard, its tokens last: it counts as done once they are there."""
        books = [books_of(chunk) for chunk in chunks]
        parts = [_rows_of(chunk, book) for chunk, book in zip(chunks, books, strict=True)]
        rejects = [reject for book in books for reject in book.rejects]
        notes = Notes()
        for book in books:
            notes.add(book.notes)
        statistics = shard_statistics(
            [part.codes for part in parts if len(part.codes)],
            rows_hr=sum(len(part.places_hr) for part in parts),
            truncated=sum(part.truncated_captions for part in parts),
            rejects=rejects,
            notes=notes,
            codebook_size=self._fingerprint.codebook_size,
        )
        self._news.rejects += len(rejects)
        if rejects:
            lines = "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects)
            self._output.write(rejects_name(shard), lambda path: path.write_text(lines, encoding="utf-8"))
        else:
            self._output.delete(rejects_name(shard))
        write_json(self._output, statistics_name(shard), stored_values(statistics))
        self._output.write(token_name(shard), lambda path: write_encoded_rows(path, parts, self._fingerprint))
        return statistics


def _is_whole(chunks: dict[int, EncodedChunk]) -> bool:
    """True if the chunks of a shard are all there: as many as the index of the last one says."""
    last = chunks.get(len(chunks) - 1)
    return last is not None and last.last


def _rows_of(chunk: EncodedChunk, books: ChunkBooks) -> EncodedRows:
    return EncodedRows(books.rows, chunk.codes, chunk.codes_hr, chunk.places_hr)


def writer_of(shard: str, num_writers: int) -> int:
    """The index of a shard's writer, the same in every process."""
    return zlib.crc32(shard.encode()) % num_writers
