"""A file of a storage as Python knows files: only what is asked for is read."""

import io

from tokenization.files.storage import Storage


class RangedFile(io.RawIOBase):
    """To be read from anywhere in it.

    Raises:
        InputError: there is no such file.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name, self._size, self._place = storage, name, storage.size(name), 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place, counted from the start, from here, or from the end."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fills the buffer as far as the file goes."""
        count = max(0, min(len(buffer), self._size - self._place))
        if count:
            buffer[:count] = self._storage.read(self._name, self._place, self._place + count)
            self._place += count
        return count
