"""Takes metadata out of pictures before Pillow opens them, and reads the orientation in it.

Pillow parses EXIF, profiles and texts while it opens a picture, and gives the whole picture up if they are damaged, of
unusual types, or large. None of them changes a pixel but the orientation, so they are cut out of JPEG, PNG and TIFF,
and EXIF is hidden in HEIC and AVIF, and comments are cut out of plain PNM. In any other format Pillow hands them over
as bytes.
"""

import re
import zlib
from dataclasses import dataclass
from struct import Struct, unpack_from
from struct import error as StructError
from typing import Literal

from PIL import Image

from tokenization.corpora.picture_parts import JPEG_2000, PNG_SIGNATURE, boxes_of, count_part

ORIENTATION = 0x0112
XMP_TAG = 700
MAX_METADATA_BYTES = 1_000_000
"""Longer EXIF or XMP, or a compressed text that becomes longer, is cut: the orientation is at the beginning."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by EXIF's orientation (EXIF 2.32, 4.6.4)."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""

TIFF_SIGNATURES = (b"II\x2a\x00", b"MM\x00\x2a", b"MM\x2a\x00", b"II\x00\x2a", b"II\x2b\x00", b"MM\x00\x2b")
XMP_IN_JPEG, XMP_IN_PNG, EXIF_IN_PNG = b"http://ns.adobe.com/xap/1.0/\0", b"XML:com.adobe.xmp", b"Raw profile type exif"
EXIF_HEADER = b"Exif\0\0"
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
EXIF_ITEM = re.compile(rb"(infe[\x02\x03]\x00\x00.(?:.{4}|.{6}))Exif", re.DOTALL)
"""An item of type Exif: version, flags, number of 2 or 4 bytes, and protection come before its type."""
JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")
PLAIN_PNM, PNM_COMMENT = (b"P1", b"P2", b"P3"), re.compile(rb"#[^\r\n]*+(?:[\r\n]|\Z)")
STANDALONE = {0x01, *range(0xD0, 0xD9)}
"""Markers that no length follows. Decoders skip them before the first scan."""
JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""APP1 to APP13, APP15 and COM. APP0 and APP14 say which colours the components are."""
JPEG_SEGMENTS = {*range(0xC0, 0xD0), *range(0xDB, 0xF0), 0xFE} - {0xC8}
"""Markers that a length follows, without that of a scan."""
TIFF_DECODING = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
    *(332, 334, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
    *(32995, 32996, 32997, 32998, 37439, 50674, 0xBC01),
}
"""The tags that decide how the samples of a TIFF are stored, and what they mean."""
SUBFILE_TYPE, SUB_DIRECTORIES = 254, 330
SMALLER_COPY = 1
"""A bit of a picture's `SUBFILE_TYPE`: there is a larger one of it."""
MAX_ENTRIES = 65_535
"""Most tags that are looked at, as many as a TIFF can have that is no BigTIFF."""
JPEG_TABLES = 347
MAX_VALUES = 400_000
"""Most values of a tag: the tiles of 89 million pixels, 16 x 16 each, and some. Pillow makes numbers of all."""
INTEGERS: dict[int, str] = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}
"""Integer types of TIFF tags, as codes of `struct`."""
SIZES = {**{kind: Struct("=" + code).size for kind, code in INTEGERS.items()}, 2: 1, 5: 8, 7: 1, 10: 8, 11: 4, 12: 8}


@dataclass(frozen=True)
class Encoded:
    """A picture's file.

    Attributes:
        content: the file, without metadata if the format is one of those.
        exif, xmp: the metadata that was cut out.
    """

    content: bytes
    exif: bytes = b""
    xmp: bytes = b""


def strip_metadata(content: bytes) -> Encoded:
    """Cuts the metadata out of a picture, as far as the file can be followed."""
    if content.startswith(b"\xff\xd8\xff"):
        return _strip_jpeg(content)
    if content.startswith(PNG_SIGNATURE):
        return _strip_png(content)
    if content.startswith(TIFF_SIGNATURES):
        return _strip_tiff(content)
    if content[4:8] == b"ftyp":
        return _hide_exif(content)
    if content.startswith(PLAIN_PNM):
        count_part(content.count(b"#"))
        return Encoded(PNM_COMMENT.sub(b"", content))
    if content.startswith(JPEG_2000):
        header = next((content[start:end] for kind, start, end in boxes_of(content) if kind == b"jp2h"), b"")
        for _ in boxes_of(header):  # counts them
            pass
    return Encoded(content)


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """EXIF's orientation, 1 to 8: of EXIF, or else of XMP. 1 if there is none, or none that can be read."""
    found = None
    for kind, raw, order in _Directory.of(exif.removeprefix(EXIF_HEADER).removeprefix(EXIF_HEADER)).values(ORIENTATION):
        found = _whole_number(kind, raw, order) or found
    if found is None and (in_xmp := XMP_ORIENTATION.search(xmp)):
        found = int(in_xmp[1])
    return found if found in TURNS else 1


def _strip_jpeg(content: bytes) -> Encoded:
    kept, exif, xmp = [content[:2]], list[bytes](), b""
    at, parts = 2, 0
    while found := JPEG_MARKER.search(content, at):  # what is between the segments, decoders skip
        parts = count_part(parts)
        at = found.start()
        if content[at + 1] in STANDALONE:
            at += 2
            continue
        marker, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker not in JPEG_SEGMENTS or end < at + 4 or end > len(content):
            break
        if marker not in JPEG_METADATA:
            kept.append(content[at:end])
        elif marker == 0xE1 and content.startswith(EXIF_HEADER, at + 4):
            if sum(map(len, exif)) < MAX_METADATA_BYTES:
                exif.append(content[at + 4 + len(EXIF_HEADER) : end])
        elif marker == 0xE1 and content.startswith(XMP_IN_JPEG, at + 4):
            xmp = content[at + 4 + len(XMP_IN_JPEG) : end]
        at = end
    return Encoded(b"".join((*kept, memoryview(content)[at:])), b"".join(exif), xmp)


def _strip_png(content: bytes) -> Encoded:
    """Keeps the critical chunks and tRNS; of an animation, the picture that stands for it."""
    kept, exif, xmp = list[memoryview](), b"", b""
    view, at, start, parts = memoryview(content), len(PNG_SIGNATURE), 0, 0
    while at + 12 <= len(content):
        parts = count_part(parts)
        kind, end = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4], "big")
        if end > len(content) or not kind.isalpha():
            break
        if kind[0] & 0x20 and kind != b"tRNS":
            kept.append(view[start:at])
            start, data = end, view[at + 8 : end - 4]
            if kind == b"eXIf":
                exif = bytes(data[:MAX_METADATA_BYTES])
            elif kind in (b"tEXt", b"zTXt", b"iTXt"):
                key, _, text = bytes(data[:MAX_METADATA_BYTES]).partition(b"\0")
                if key == XMP_IN_PNG:
                    xmp = _png_text(kind, text)
                elif key == EXIF_IN_PNG and not exif:
                    exif = _of_hexadecimal(_png_text(kind, text))
        at = end
        if kind == b"IEND":
            return Encoded(b"".join((*kept, view[start:at])), exif, xmp)
    return Encoded(b"".join((*kept, view[start:])), exif, xmp)


def _png_text(kind: bytes, text: bytes) -> bytes:
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        compressed, text = text[:1] == b"\1", b"".join(text[2:].split(b"\0", 2)[2:])
    elif compressed:
        text = text[1:]
    if not compressed:
        return text
    try:
        return zlib.decompressobj().decompress(text, MAX_METADATA_BYTES)
    except zlib.error:
        return b""


def _of_hexadecimal(text: bytes) -> bytes:
    """ImageMagick's profile in a text: an empty line, its name, its length, and then hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _strip_tiff(content: bytes) -> Encoded:
    """Keeps the tags of the first directory that say how its samples are stored, and drops the other directories."""
    directory = _Directory.of(content)
    if not directory.offsets:
        return Encoded(content)
    if directory.is_smaller_copy:
        raise ValueError(
            "a TIFF whose first picture is a smaller copy of another, as in a camera's raw file; convert the large one"
        )
    for tag, at in directory.offsets:
        count = int.from_bytes(content[at + 4 : at + directory.size - directory.next_size], directory.order)
        if tag in TIFF_DECODING and count > MAX_VALUES and tag != JPEG_TABLES:
            raise ValueError(f"a TIFF whose tag {tag} has {count:,} values, more than {MAX_VALUES:,}")
    xmp = b"".join(raw[:MAX_METADATA_BYTES] for _, raw, _ in directory.values(XMP_TAG))
    kept = [content[at : at + directory.size] for tag, at in directory.offsets if tag in TIFF_DECODING]
    changed = bytearray(content)
    own = len(kept).to_bytes(directory.count_size, directory.order) + b"".join(kept) + bytes(directory.next_size)
    changed[directory.start : directory.start + len(own)] = own
    del changed[len(content) :]
    return Encoded(bytes(changed), content, xmp)


def _hide_exif(content: bytes) -> Encoded:
    """Gives the EXIF of a HEIC or an AVIF another type, which decoders do not know. Such files have their orientation
    in properties of their own, which decoders apply or report; that in EXIF does not count (ISO/IEC 23008-12, 6.5.10).
    """
    head, rest = content[:MAX_METADATA_BYTES], memoryview(content)[MAX_METADATA_BYTES:]
    hidden = EXIF_ITEM.sub(rb"\1none", head)
    return Encoded(content if hidden == head else b"".join((hidden, rest)))


@dataclass(frozen=True)
class _Directory:
    """The first directory of a TIFF, which EXIF is, too: where its entries are, as far as they can be followed."""

    content: bytes
    order: Literal["little", "big"] = "little"
    start: int = 0
    is_big: bool = False
    offsets: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, content: bytes) -> "_Directory":
        if not content.startswith(TIFF_SIGNATURES):
            return cls(content)
        order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"
        is_big = 0x2B in content[2:4]
        start = int.from_bytes(content[8:16] if is_big else content[4:8], order)
        empty = cls(content, order, start, is_big)
        count = min(MAX_ENTRIES, int.from_bytes(content[start : start + empty.count_size], order))
        first, step = start + empty.count_size, empty.size
        ends = range(first + step, min(first + step * count, len(content)) + 1, step)
        offsets = tuple((int.from_bytes(content[end - step : end - step + 2], order), end - step) for end in ends)
        return cls(content, order, start, is_big, offsets)

    @property
    def count_size(self) -> int:
        return 8 if self.is_big else 2

    @property
    def size(self) -> int:
        """Bytes of an entry."""
        return 20 if self.is_big else 12

    @property
    def next_size(self) -> int:
        return 8 if self.is_big else 4

    @property
    def is_smaller_copy(self) -> bool:
        """True if it describes a picture of which the file has a larger one."""
        kinds = [_whole_number(kind, raw, order) or 0 for kind, raw, order in self.values(SUBFILE_TYPE)]
        end = self.offsets[-1][1] + self.size
        has_others = any(self.content[end : end + self.next_size]) or bool(self.values(SUB_DIRECTORIES))
        return has_others and any(kind & SMALLER_COPY for kind in kinds)

    def values(self, tag: int) -> list[tuple[int, bytes, str]]:
        """Type, bytes and byte order of each entry of a tag."""
        found = []
        for own, at in self.offsets:
            if own == tag:
                kind = int.from_bytes(self.content[at + 2 : at + 4], self.order)
                inline = at + self.size - self.next_size
                count = int.from_bytes(self.content[at + 4 : inline], self.order)
                num_bytes = max(1, count) * SIZES.get(kind, 0)
                start = inline
                if num_bytes > self.next_size:
                    start = int.from_bytes(self.content[inline : inline + self.next_size], self.order)
                found.append((kind, self.content[start : start + num_bytes], "<" if self.order == "little" else ">"))
        return found


def _whole_number(kind: int, raw: bytes, order: str) -> int | None:
    """The first value of a tag whatever its type, if it is a whole number."""
    try:
        if kind in INTEGERS:
            return int(unpack_from(order + INTEGERS[kind], raw)[0])
        if kind in (5, 10):
            over, under = unpack_from(order + ("II" if kind == 5 else "ii"), raw)
            return over // under if under and not over % under else None
        if kind in (11, 12):
            (number,) = unpack_from(order + ("f" if kind == 11 else "d"), raw)
            return int(number) if number in TURNS else None
        text = raw.split(b"\0")[0].strip()
        return int(text) if text.isdigit() and len(text) == 1 else None
    except StructError:
        return None
