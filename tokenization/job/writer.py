"""Writing whole shards on Ray's workers. A writer imports no torch."""

import json
import zlib
from typing import Any

from tokenization.files.storage import open_storage
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


def writer_of(shard: str, num_writers: int) -> int:
    """The index of a shard's writer, the same in every process."""
    return zlib.crc32(shard.encode()) % num_writers
