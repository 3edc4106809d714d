"""A file of a storage as a Python file object, which reads only the requested bytes."""

import io

from tokenization.files.storage import Storage


class RangedFile(io.RawIOBase):
    """A seekable, read-only file object.

    Raises:
        InputError: there is no such file.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name, self._size, self._place = storage, name, storage.size(name), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to an offset from the start, the current offset, or the end."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fills the buffer as far as the file goes."""
        count = max(0, min(len(buffer), self._size - self._place))
        if count:
            buffer[:count] = self._storage.read(self._name, self._place, self._place + count)
            self._place += count
        return count
