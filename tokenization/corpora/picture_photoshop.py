"""The channels of a Photoshop picture, where they are more than its colours have.

Pillow looks for the first run-length encoded row as if there were none, and drops alpha but that of three colours. It
also takes the bits of a bitmap for their opposites.
"""

import io

from PIL import Image, ImageFile

BITMAP, MULTICHANNEL = 0, 7
"""Colour modes in the header."""
RAW = 0
"""A compression."""
HEADER_BYTES = 26


def mend_channels(image: Image.Image, content: bytes) -> None:
    """Points an opened picture at its channels.

    Raises:
        ValueError: the channels are inks that have no common colour space.
    """
    channels, color_mode = _channels(content), int.from_bytes(content[24:26], "big")
    if color_mode == MULTICHANNEL and channels > 1:
        raise ValueError(f"a Photoshop picture of {channels} inks without a common colour space: convert it to RGB")
    if channels > len(image.getbands()):
        _point(image, _offsets(image, content))
    if color_mode == BITMAP and isinstance(image, ImageFile.ImageFile):  # where 1 is black
        image.tile = [type(tile)(*tile[:3], "1;I") for tile in image.tile]


def add_alpha(image: Image.Image, content: bytes) -> None:
    """Gives a loaded picture in grey or RGB the first of its further channels as alpha, as Pillow does with RGB and
    one more. The composite picture of CMYK and Lab has its background in it."""
    if image.mode in ("L", "RGB") and _channels(content) > (place := len(image.getbands())):
        with Image.open(io.BytesIO(content), formats=("PSD",)) as other:
            _point(other, _offsets(image, content)[place:][:1])
            image.putalpha(other.getchannel(0))


def _channels(content: bytes) -> int:
    return int.from_bytes(content[12:14], "big")


def _point(image: Image.Image, offsets: list[int]) -> None:
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [type(tile)(*tile[:2], offset, tile.args) for tile, offset in zip(image.tile, offsets, strict=False)]


def _offsets(image: Image.Image, content: bytes) -> list[int]:
    """The offset at which each channel begins."""
    channels, at = _channels(content), HEADER_BYTES
    for _ in range(3):  # colours, resources, layers
        at += 4 + int.from_bytes(content[at : at + 4], "big")
    compression, at = int.from_bytes(content[at : at + 2], "big"), at + 2
    if compression == RAW:
        return [at + channel * image.width * image.height for channel in range(channels)]
    lengths = memoryview(content)[at : at + 2 * channels * image.height]
    at += len(lengths)
    offsets = []
    for channel in range(channels):
        offsets.append(at)
        rows = lengths[2 * channel * image.height : 2 * (channel + 1) * image.height]
        at += sum(rows[0::2]) * 256 + sum(rows[1::2])
    return offsets
