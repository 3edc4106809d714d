"""A file of a storage that is read from its start to its end, in pieces that are fetched ahead of time."""

import io
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Literal, Protocol

from tokenization.files.local_folder import LocalFolder
from tokenization.files.ranged_file import RangedFile
from tokenization.files.storage import Storage

PIECE_BYTES, PIECES_AHEAD = 4 << 20, 3
"""Size of the pieces, and how many are fetched behind the one that is read: that much is in memory."""


class Openable(Protocol):
    """What can be opened for reading, as a `Path` can."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """A seekable file object."""


class StoredFile:
    """A file of a storage. Of a local one, what the file system has is read; of another, ranges are fetched.

    Args:
        storage, name: the file.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """Raises InputError: there is no such file."""
        if isinstance(self._storage, LocalFolder):
            with self._storage.local(self._name) as path:
                return path.open(mode)
        return io.BufferedReader(AheadFile(self._storage, self._name))


class AheadFile(RangedFile):
    """A seekable, read-only file object. While a piece is read, threads fetch those behind it.

    Raises:
        InputError: there is no such file.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        super().__init__(storage, name)
        self._pool = ThreadPoolExecutor(PIECES_AHEAD + 1)
        self._pieces: dict[int, Future[bytes]] = {}

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fills the buffer up to the end of a piece."""
        if self._place >= self._size:
            return 0
        number, start = divmod(self._place, PIECE_BYTES)
        piece = self._piece(number)[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)

    def _piece(self, number: int) -> bytes:
        wanted = range(number, min(number + PIECES_AHEAD, (self._size - 1) // PIECE_BYTES) + 1)
        for behind in self._pieces.keys() - set(wanted):
            self._pieces.pop(behind).cancel()
        for each in wanted:
            if each not in self._pieces:
                start = each * PIECE_BYTES
                stop = min(start + PIECE_BYTES, self._size)
                self._pieces[each] = self._pool.submit(self._storage.read, self._name, start, stop)
        return self._pieces[number].result()

    def close(self) -> None:
        """Waits for no piece."""
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pieces.clear()
        super().close()
