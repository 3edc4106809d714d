"""Writes picture files byte by byte, for what Pillow itself does not write."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

GRADIENT = np.linspace(0, 1, 64)
"""The samples of a row, as shares of white."""
RATIONAL, SHORT, LONG, ASCII = 5, 3, 4, 2
ORIENTATION = 0x0112


def saved(kind: str, size: tuple[int, int] = (64, 48), **how: Any) -> bytes:
    """A picture whose left upper quarter is red, and the rest white."""
    picture = Image.new("RGB", size, "white")
    picture.paste("red", (0, 0, size[0] // 2, size[1] // 2))
    stream = io.BytesIO()
    picture.save(stream, kind, **how)
    return stream.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(content: bytes, *chunks: bytes, last: bool = False) -> bytes:
    """A PNG with more chunks behind its header, or before its end."""
    at = len(content) - 12 if last else 33
    return content[:at] + b"".join(chunks) + content[at:]


def png(samples: np.ndarray, depth: int, color: int, *chunks: bytes) -> bytes:
    """A PNG of samples [height, width] or [height, width, bands]; `chunks` come before its pixels."""
    flat = samples.reshape(len(samples), -1)
    if depth < 8:
        bits = (flat[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(len(flat), -1).astype(np.uint8), axis=1)
    else:
        rows = flat.astype(">u2" if depth == 16 else "u1")
    header = struct.pack(">IIBBBBB", samples.shape[1], len(samples), depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


Entry = tuple[int, int, int, bytes]
"""A tag of a TIFF: its number, its type, how many values, and their bytes."""


def directory(entries: Sequence[Entry], order: str = "<", start: int = 8) -> bytes:
    """A TIFF's header and first directory, with the values behind it."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    body, behind, at = struct.pack(order + "H", len(entries)), b"", start + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in sorted(entries):
        body += struct.pack(order + "HHI", tag, kind, count)
        body += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", at + len(behind))
        behind += value if len(value) > 4 else b""
    return head.ljust(start, b"\0") + body + bytes(4) + behind


def tiff(
    samples: np.ndarray, photometric: int, order: Literal["<", ">"] = "<", more: Sequence[Entry] = (), **changes: int
) -> bytes:
    """A TIFF of samples [height, width] or [height, width, bands], uncompressed unless it is said otherwise.

    `changes`: `bits` for less than the samples have, a `sample_format`, `planar=2` for planes, `compression=8`.
    """
    height, width = samples.shape[:2]
    bands = samples.shape[2] if samples.ndim == 3 else 1
    bits = changes.get("bits", samples.dtype.itemsize * 8)
    kind = changes.get("sample_format", {"u": 1, "i": 2, "f": 3}[samples.dtype.kind])
    planar, compression = changes.get("planar", 1), changes.get("compression", 1)
    planes = np.moveaxis(samples, -1, 0) if planar == 2 and bands > 1 else samples[None]
    strips = [_packed(plane, order, bits) for plane in planes]
    if compression == 8:
        strips = [zlib.compress(strip) for strip in strips]
    places = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    short, long = (lambda *values, code=code: struct.pack(f"{order}{len(values)}{code}", *values) for code in "HI")
    entries: list[Entry] = [
        (256, LONG, 1, long(width)),
        (257, LONG, 1, long(height)),
        (258, SHORT, bands, short(*[bits] * bands)),
        (259, SHORT, 1, short(compression)),
        (262, SHORT, 1, short(photometric)),
        (273, LONG, len(strips), long(*places)),
        (277, SHORT, 1, short(bands)),
        (278, LONG, 1, long(height)),
        (279, LONG, len(strips), long(*map(len, strips))),
        (284, SHORT, 1, short(planar)),
        (339, SHORT, bands, short(*[kind] * bands)),
        *more,
    ]
    start = places[-1] + len(strips[-1])
    content = directory(entries, order, start)
    return b"".join((content[:8], *strips, content[start:]))


def _packed(samples: np.ndarray, order: Literal["<", ">"], bits: int) -> bytes:
    if bits != 12:
        return samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    pairs = samples.reshape(-1, 2).astype(np.uint32)
    joined = (pairs[:, 0] << 12) | pairs[:, 1]
    return np.stack([joined >> 16, joined >> 8, joined], axis=1).astype(np.uint8).tobytes()


def exif(*entries: Entry, order: str = "<", orientation: int = 6) -> bytes:
    """EXIF with an orientation and further tags."""
    own = (ORIENTATION, SHORT, 1, struct.pack(order + "H", orientation))
    return directory([own, *entries] if orientation else list(entries), order)


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(content: bytes, *segments: bytes) -> bytes:
    """A JPEG with more segments behind its first marker."""
    return content[:2] + b"".join(segments) + content[2:]
