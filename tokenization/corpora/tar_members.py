"""The members of a tar, packed or not, in bounded memory, and a check that it is whole."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokenization.files.ahead_file import Openable
from tokenization.files.unpacked import open_unpacked

MAX_PADDING = 1 << 16
"""Maximum number of zeros at the end: tar pads to a multiple of 10,240 bytes. An aborted download may have more."""
MAX_RECORD = 1 << 24
"""With `tar --blocking-factor` it pads to a multiple of another record, of a power of two up to this many bytes."""
HEADER_BYTES = 1 << 20
"""Maximum size of a member's header: what precedes a member and holds its long name and attributes."""


class LimitedReads:
    """A tar's bytes, of which at most `most` are read at once: tarfile reads a header as a whole, whatever its size."""

    def __init__(self, file: Any) -> None:
        self._file, self.most = file, HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            ReadError: they are more than `most`.
        """
        if size > self.most:
            raise tarfile.ReadError(f"a header of {size} bytes, more than {HEADER_BYTES}, ends at {self.tell() + size}")
        content: bytes = self._file.read(size)
        return content


@contextmanager
def opened_tar(shard: Openable) -> Iterator[tuple[LimitedReads, tarfile.TarFile]]:
    """Opens a tar, and gives what it reads from, too."""
    with open_unpacked(shard) as unpacked:
        file = LimitedReads(unpacked)
        with tarfile.open(fileobj=file, mode="r:") as tar:  # type: ignore[call-overload]
            yield file, tar


def members_of(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields the members one by one, and keeps none."""
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # else every header stays in memory
        yield member


def check_end(file: LimitedReads, offset: int) -> None:
    """Checks that the archive really ends at `offset`: only a limited number of zeros may follow.

    tarfile interprets a damaged or missing header as the end.
    """
    file.seek(offset)
    count, start = 0, b""
    while count <= MAX_RECORD and (rest := file.read(MAX_PADDING)):
        start, count = start or rest[: tarfile.BLOCKSIZE], count + len(rest)
        if len(start) < tarfile.BLOCKSIZE or start.strip(b"\0"):
            break
        if rest.strip(b"\0"):
            raise tarfile.ReadError(f"something follows its end at byte {offset}; are several archives in one file?")
    if len(start) < tarfile.BLOCKSIZE or start.strip(b"\0"):
        raise tarfile.ReadError(f"it breaks off at byte {offset}")
    if count > MAX_PADDING and count >= _largest_record(offset + count):
        raise tarfile.ReadError(f"more than {MAX_PADDING} bytes after byte {offset} are empty")


def _largest_record(size: int) -> int:
    """The largest power of two up to `MAX_RECORD` that a size is a multiple of."""
    return min(size & -size, MAX_RECORD)
