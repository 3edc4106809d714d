"""The chunks of a shard until all of them are there: in memory, and of a large shard on the disk."""

import pickle
import tempfile
from collections.abc import Iterator

from tokenization.job.chunk import EncodedChunk

HELD_BYTES = 64 << 20
"""Bytes of a shard's chunks that are held in memory. A shard with more has all of them in a temporary file."""


class HeldChunks:
    """Chunks of one shard, which come in any order. Iterating gives them in the shard's order, one at a time."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(HELD_BYTES, prefix="mars-chunks-")  # noqa: SIM115 (see `close`)
        self._places: dict[int, int] = {}
        self._last: int | None = None

    def __contains__(self, index: int) -> bool:
        return index in self._places

    def add(self, chunk: EncodedChunk) -> None:
        """Keeps a chunk that is not there yet."""
        self._places[chunk.index] = self._file.seek(0, 2)
        pickle.dump(chunk, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        if chunk.last:
            self._last = chunk.index

    @property
    def is_whole(self) -> bool:
        """True if the chunks are all there: as many as the index of the last one says."""
        return self._last is not None and len(self._places) == self._last + 1

    def __iter__(self) -> Iterator[EncodedChunk]:
        for index in sorted(self._places):
            self._file.seek(self._places[index])
            yield pickle.load(self._file)

    def close(self) -> None:
        """Forgets the chunks, and removes their file."""
        self._file.close()
