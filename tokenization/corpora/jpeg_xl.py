"""The size, the orientation and the depth in the header of a JPEG XL.

Pillow's plugin decodes a picture when it opens it, so limits need the header before (ISO/IEC 18181-1, annex D).
"""

from dataclasses import dataclass

from tokenization.corpora.picture_parts import boxes_of

CODESTREAM, CONTAINER = b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n"
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
"""Width over height, by the three bits that say so."""
LENGTHS = (9, 13, 18, 30)
"""Bits of a side, by the two bits before them."""
HEADER_BYTES = 64


@dataclass(frozen=True)
class JpegXlHeader:
    """The stored width and height in px; EXIF's orientation, which decoders apply to the pixels by themselves, but not
    to those of a JPEG that they give back; the bits of a sample; and whether it has several frames."""

    width: int
    height: int
    orientation: int
    bits: int = 8
    is_animated: bool = False


def is_jpeg_xl(content: bytes) -> bool:
    """True if the bytes begin as a JPEG XL, with a container or without one."""
    return content.startswith((CODESTREAM, CONTAINER))


def read_header(content: bytes) -> JpegXlHeader:
    """Reads the header.

    Raises:
        ValueError: there is none.
    """
    start = _codestream(content)
    if start is None:
        raise ValueError("not a readable picture: a JPEG XL without a codestream")
    bits = _Bits(content[start + len(CODESTREAM) : start + HEADER_BYTES])
    width, height = _size(bits)
    is_default = bits.take(1)
    if is_default:
        return JpegXlHeader(width, height, 1)
    orientation, is_animated = 1, 0
    if bits.take(1):
        orientation += bits.take(3)
        if bits.take(1):  # another size, for showing it
            _size(bits)
        if bits.take(1):  # a preview
            _preview(bits)
        if is_animated := bits.take(1):  # ticks a second, loops, time codes
            for lengths in ((0, 0, 10, 30), (0, 0, 8, 10), (0, 3, 16, 32)):
                bits.take(lengths[bits.take(2)])
            bits.take(1)
    is_float = bits.take(1)
    choice, further = bits.take(2), ((32, 16, 24) if is_float else (8, 10, 12))
    depth = further[choice] if choice < 3 else 1 + bits.take(6)
    return JpegXlHeader(width, height, orientation, depth, bool(is_animated))


def _size(bits: "_Bits") -> tuple[int, int]:
    """Width and height."""
    is_multiple = bits.take(1)
    height = _side(bits, is_multiple)
    ratio = bits.take(3)
    return height * RATIOS[ratio][0] // RATIOS[ratio][1] if ratio else _side(bits, is_multiple), height


def _side(bits: "_Bits", is_multiple_of_8: int) -> int:
    return 8 * (1 + bits.take(5)) if is_multiple_of_8 else 1 + bits.take(LENGTHS[bits.take(2)])


def _preview(bits: "_Bits") -> None:
    """Goes over a preview's size."""
    lengths = (0, 0, 5, 9) if bits.take(1) else (6, 8, 10, 12)
    bits.take(lengths[bits.take(2)])
    if not bits.take(3):
        bits.take(lengths[bits.take(2)])


class _Bits:
    """Takes bits from the lowest one of the first byte on."""

    def __init__(self, content: bytes) -> None:
        self._left = int.from_bytes(content, "little")

    def take(self, count: int) -> int:
        taken = self._left & ((1 << count) - 1)
        self._left >>= count
        return taken


def _codestream(content: bytes) -> int | None:
    """The first byte of the codestream, or None."""
    if content.startswith(CODESTREAM):
        return 0
    for kind, start, _ in boxes_of(content):
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0
            return start if content.startswith(CODESTREAM, start) else None
    return None
