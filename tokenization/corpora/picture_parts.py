"""How many parts of a file are followed, so that no header takes long.

A file of nothing but empty chunks, segments or boxes would take Python minutes.
"""

import io
from collections.abc import Iterator

MAX_PARTS = 200_000
"""Most chunks, segments, boxes or values of a tag that are followed: 100 MB in parts of 512 bytes."""
PNG_SIGNATURE, JPEG_2000 = b"\x89PNG\r\n\x1a\n", b"\0\0\0\x0cjP  \r\n\x87\n"
MAX_READS = 1_000_000
"""How often Pillow may read or seek for a picture: about 3 s."""


def count_part(parts: int) -> int:
    """One more part of a file.

    Raises:
        ValueError: they are more than `MAX_PARTS`.
    """
    if parts >= MAX_PARTS:
        raise ValueError(f"picture is in more than {MAX_PARTS:,} parts")
    return parts + 1


def boxes_of(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of a JPEG 2000 or a JPEG XL: their types, and where their contents begin and end.

    Raises:
        ValueError: they are more than `MAX_PARTS`.
    """
    at = parts = 0
    while at + 8 <= len(content):
        parts = count_part(parts)
        length, head = int.from_bytes(content[at : at + 4], "big"), 8
        if length == 1:
            length, head = int.from_bytes(content[at + 8 : at + 16], "big"), 16
        end = at + length if length else len(content)  # 0: up to the end of the file
        if end < at + head:
            return
        yield content[at + 4 : at + 8], at + head, end
        at = end


class BoundedFile(io.BytesIO):
    """A picture's file, of which Pillow may read `MAX_READS` times. Its plugins follow headers in loops of Python."""

    left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._count()
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        self._count()
        return super().readline(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._count()
        return super().seek(offset, whence)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"picture is in more than {MAX_READS:,} parts")
