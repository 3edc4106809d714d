"""The picture inside of an icon, so that it is read as its own format.

Of a PNG in an icon, Pillow keeps neither the transparent colour nor the depth, and of a JPEG 2000 not the depth.
"""

import struct

from PIL.IcnsImagePlugin import IcnsFile

from tokenization.corpora.picture_parts import JPEG_2000, PNG_SIGNATURE, BoundedFile

ICON, MAC_ICON = b"\0\0\1\0", b"icns"
CODESTREAM = b"\xff\x4f\xff\x51"
"""The beginning of a JPEG 2000 without a container."""


def picture_in_icon(content: bytes) -> bytes:
    """Returns the PNG, or the JPEG 2000, that Pillow would take of an icon, or the file itself if it has none or is no
    icon."""
    if content.startswith(ICON):
        return _png_in_icon(content)
    if content.startswith(MAC_ICON):
        return _picture_in_mac_icon(content)
    return content


def _png_in_icon(content: bytes) -> bytes:
    entries = []
    for at in range(6, min(len(content) - 15, 6 + 16 * int.from_bytes(content[4:6], "little")), 16):
        width, height, colors = content[at], content[at + 1], content[at + 2]
        depth = int.from_bytes(content[at + 6 : at + 8], "little") or max(0, colors - 1).bit_length() or 256
        offset = int.from_bytes(content[at + 12 : at + 16], "little")
        entries.append((-(width or 256) * (height or 256), depth, at, offset))
    start = min(entries)[3] if entries else 0
    return content[start:] if content.startswith(PNG_SIGNATURE, start) else content


def _picture_in_mac_icon(content: bytes) -> bytes:
    try:
        file = IcnsFile(BoundedFile(content))
        kinds = IcnsFile.SIZES[file.bestsize()]
    except (SyntaxError, struct.error):  # Pillow says so, too, when it opens the file
        return content
    for start, length in (file.dct[kind] for kind, _ in kinds if kind in file.dct):
        if content.startswith((PNG_SIGNATURE, JPEG_2000, CODESTREAM), start):
            return content[start : start + length]
    return content
