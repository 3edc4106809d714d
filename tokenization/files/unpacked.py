"""Reads files that may be packed by gzip, bzip2, xz, zstd or lz4, without unpacking them to disk."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, BinaryIO

import pyarrow as pa

from tokenization.files.ahead_file import Openable

KEPT_BYTES = 4096
"""How far `Unpacked` goes back: tarfile reads a block too far at the end of an archive."""
PIECE_BYTES = 1 << 20
UNPACKING_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
"""What reading a damaged packed file raises."""

_XZ_BYTES = 256 << 20
"""Maximum memory of a decoder: a file's header says how much it takes, which for `xz -9` is 65 MB."""
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
"""First numbers of frames of zstd and of lz4 that hold no content, little-endian; pzstd begins with one."""
_PACKERS: tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b\x08", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lambda file: closing(_Xz(file))),
    (b"\x28\xb5\x2f\xfd", lambda file: pa.CompressedInputStream(pa.PythonFile(file), "zstd")),
    (b"\x04\x22\x4d\x18", lambda file: pa.CompressedInputStream(pa.PythonFile(file), "lz4")),
)
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
"""What follows the four bytes of bzip2's header: its name alone could begin a tar, too."""


class _Xz:
    """The content of a file of xz streams, with padding between and behind them, in bounded memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._next = file, b""
        self._decoder: lzma.LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        """Up to `size` of the next bytes; none at the end.

        Raises:
            EOFError, LZMAError: the file is cut off or damaged.
        """
        while True:
            packed = b""
            if self._decoder is None or self._decoder.needs_input:
                packed, self._next = self._next or self._file.read(PIECE_BYTES), b""
                if not packed and self._decoder is None:
                    return b""
                if not packed:
                    raise EOFError("its last xz stream is cut off")
            if self._decoder is None:
                packed = packed.lstrip(b"\0")
                if not packed:
                    continue
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_BYTES)
            content = self._decoder.decompress(packed, size)
            if self._decoder.eof:
                self._next, self._decoder = self._decoder.unused_data, None
            if content:
                return content

    def close(self) -> None:
        """Leaves the file open: it is another's."""


class Unpacked:
    """The content of a stream as a file that is read forward, and back by at most `KEPT_BYTES`."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._read, self._kept, self._behind = stream, 0, b"", 0

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._read - self._behind

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or those that are left."""
        again = self._kept[len(self._kept) - self._behind :][:size] if self._behind else b""
        self._behind -= len(again)
        parts, missing = [again], size - len(again)
        while missing and (part := self._stream.read(min(missing, PIECE_BYTES))):
            parts.append(part)
            missing -= len(part)
            self._read += len(part)
            self._kept = (self._kept + part)[-KEPT_BYTES:]
        return b"".join(parts)

    def seek(self, offset: int) -> int:
        """Moves to an offset from the start."""
        if offset <= self._read:
            self._behind = self._read - offset
            if self._behind > len(self._kept):
                raise OSError(f"a packed file is read forward; {self._behind} bytes back is too far")
        else:
            self._behind = 0
            while self._read < offset and self.read(min(PIECE_BYTES, offset - self._read)):
                pass
        return self.tell()


@contextmanager
def open_unpacked(packed: Openable) -> Iterator[Any]:
    """Opens a file for reading: as it is, or what is packed in it. Its first bytes decide, not its name."""
    with packed.open("rb") as file:
        start, skipped = _skip_empty_frames(file)
        packer = next((packer for magic, packer in _PACKERS if start.startswith(magic)), None)
        if packer is None and skipped:
            raise OSError("it has frames without content alone")
        if packer is None or (start.startswith(b"BZh") and start[4:10] not in _BZIP2_BLOCKS):
            yield file
        else:
            with packer(file) as stream:
                yield Unpacked(stream)


def _skip_empty_frames(file: BinaryIO) -> tuple[bytes, bool]:
    """Moves behind frames without content. Returns the first bytes that follow, and True if there were such frames."""
    place = 0
    while len(start := file.read(10)) >= 8 and int.from_bytes(start[:4], "little") in _SKIPPABLE:
        place += 8 + int.from_bytes(start[4:8], "little")
        file.seek(place)
    file.seek(place)
    return start, place > 0
