"""The codestream of a JPEG 2000: its depth, its tiles, and how large it is decoded (ISO/IEC 15444-1, annex A)."""

import math

from PIL import Image
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from tokenization.corpora.picture_parts import count_part

MAX_HALVED_PIXELS, MAX_PIXELS = 160_000_000, 40_000_000
"""Its decoder takes 18 to 23 bytes and 80 ns for a pixel. A larger one is decoded to half its width and height."""
SIZ, COD, LEVELS_BEHIND_COD = b"\xff\x4f\xff\x51", b"\xff\x52", 9
"""The beginning of a codestream with the segment of its size; and that of how it is coded."""
DEPTH_BEHIND_SIZ, SIZES_BEHIND_SIZ = 42, 8
START_OF_TILE_PART, TILE_PART_BYTES = b"\xff\x90", 12


def largest_sample(content: bytes) -> int:
    """The largest value that a sample can have; 255 if there is no codestream."""
    at = content.find(SIZ) + DEPTH_BEHIND_SIZ
    return 2 ** (1 + (content[at] & 0x7F)) - 1 if DEPTH_BEHIND_SIZ <= at < len(content) else 255


def check_tiles(content: bytes) -> None:
    """Checks that every tile is there. Those that are not, Pillow leaves black.

    Raises:
        ValueError: some are not.
    """
    start = content.find(SIZ)
    sizes = content[start + SIZES_BEHIND_SIZ : start + SIZES_BEHIND_SIZ + 32]
    if start < 0 or len(sizes) < 32:
        return
    right, bottom, _, _, width, height, left, top = (int.from_bytes(sizes[at : at + 4]) for at in range(0, 32, 4))
    if not width or not height:
        return
    tiles = math.ceil((right - left) / width) * math.ceil((bottom - top) / height)
    if (found := len(_tiles_of(content, start + 2))) < tiles:
        raise ValueError(f"a JPEG 2000 with {found} of its {tiles} tiles; fetch it again")


def _tiles_of(content: bytes, at: int) -> set[int]:
    """The numbers of the tiles that a codestream has parts of."""
    parts = 0
    while at + 4 <= len(content) and content[at : at + 2] != START_OF_TILE_PART:  # the segments of the main header
        parts = count_part(parts)
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    tiles = set[int]()
    while content[at : at + 2] == START_OF_TILE_PART and at + TILE_PART_BYTES <= len(content):
        parts = count_part(parts)
        tiles.add(int.from_bytes(content[at + 4 : at + 6]))
        length = int.from_bytes(content[at + 6 : at + 10])  # 0: up to the end of the codestream
        at += length or len(content)
    return tiles


def halve(image: Image.Image, content: bytes, needed_px: int) -> bool:
    """Has a large JPEG 2000 decoded to half its width and height.

    Args:
        image: opened, not loaded.
        content: its file.
        needed_px: the least shorter side that is wanted.

    Returns:
        Whether it will be.

    Raises:
        ValueError: it cannot be decoded in halves.
    """
    if not isinstance(image, Jpeg2KImageFile) or image.width * image.height <= MAX_PIXELS:
        return False
    at = content.find(COD, content.find(SIZ)) + LEVELS_BEHIND_COD
    can_be = content[at : at + 1] > b"\0" and min(image.size) >= 2 * needed_px and image.mode not in ("P", "PA")
    if not can_be or image.width * image.height > MAX_HALVED_PIXELS:
        raise ValueError(
            f"picture has {image.width} x {image.height} px of JPEG 2000 that cannot be decoded to half its size; it "
            f"may have {MAX_PIXELS:,}"
        )
    image.reduce = 1
    return True
