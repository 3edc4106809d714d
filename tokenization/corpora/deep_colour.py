"""Pictures in colour, or with alpha, of more than 8 bits a sample. Pillow keeps 8 of them.

Their samples must reach 1/16 of the range that the file states, or else they come out black, and almost always the
file has more bits than they have. There are two exceptions. Samples whose two bytes are equal are 8 bits that were
scaled to 16, so a dark picture, or a black one, is meant. Ink need only reach 1/256: pages of hardly any ink are usual.
"""

import io
import zlib

from PIL import Image, ImageChops, ImageFile

from tokenization.corpora.jpeg_2000 import largest_sample
from tokenization.corpora.jpeg_xl import is_jpeg_xl, read_header
from tokenization.corpora.picture_tiff import BITS, DEEP_GREY_AND_ALPHA, PLANAR, grey_and_alpha, tags_of

LEAST_SHARE = 16
"""The largest sample must reach the range over this."""
TOO_DARK = "the brightest sample of the picture is {}, and white is {:,}: scale it to the whole range"
TOO_LIGHT = "the largest sample of the picture is {}, white is 0, and black is {:,}: scale it to the whole range"
HIDDEN = "the largest sample of alpha is {}, and opaque is {:,}: scale it to the whole range"
LOW_BYTE = {"B": "L", "N": "B", "L": "B"}
"""Ends of Pillow's names of 16-bit samples, of which 8-bit modes get the high byte, to those that give the low one.
TIFF's are in the machine's byte order, N, which is taken for little-endian."""
PNG_HEADER = slice(12, 29)
PNG_DEPTH, PNG_COLOR, GREY_AND_ALPHA, COLOR_AND_ALPHA = 24, 25, 4, 6
PPM_OF_16_BITS: dict[object, str] = {("RGB", 65_535): "RGB;16B"}
DDS_OF_BYTES: dict[object, str] = {
    (24, (0xFF0000, 0xFF00, 0xFF)): "BGR",
    (32, (0xFF0000, 0xFF00, 0xFF)): "BGRX",
    (32, (0xFF, 0xFF00, 0xFF0000)): "RGBX",
    (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)): "BGRA",
    (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)): "RGBA",
}
"""Pillow's names of the samples by bits of a pixel and masks of its colours."""
ROUNDED = ("PPM", "JXL", "JPEG2000")
"""Formats of which Pillow rounds samples to 8 bits, and does not cut them off: 4,095 of 65,535 becomes 16."""


def stated_white(image: Image.Image, content: bytes) -> int:
    """Returns the largest value that a sample can have by what the file says of it. The picture is not loaded yet.

    Formats that have at most 12 bits, or whose samples Pillow hands out whole, count as 8.

    Raises:
        ValueError: Pillow decodes such a depth wrongly in this format.
    """
    bands = image.getbands()
    if is_jpeg_xl(content):
        bits = read_header(content).bits
        if bits > 8 and image.mode == "LA":
            raise ValueError(f"a JPEG XL in grey with alpha of {bits} bits, which is not read: convert it to 8 bits")
        return (1 << min(bits, 16)) - 1
    if image.format == "JPEG2000":
        return largest_sample(content)
    if tags_of(image).get(BITS) == DEEP_GREY_AND_ALPHA:
        return 65_535
    for tile in getattr(image, "tile", []):
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if image.format == "PPM" and len(bands) == 3 and isinstance(args[-1], int) and args[-1] > 255:
            return args[-1]
        if tile.codec_name == "SGI16" or ";16" in str(args[0]):
            return 65_535
    return 255


def check_range(image: Image.Image, content: bytes, white: int, visible: Image.Image | None = None) -> None:
    """Checks a loaded picture of which Pillow has kept the high byte of each sample.

    Args:
        image, content: the picture and its file.
        white: the largest value that a sample can have.
        visible: 0 where a pixel does not count, if the picture's own alpha does not say so.

    Raises:
        ValueError: its samples use too little of their range; see the module.
    """
    names, counts = image.getbands(), image.histogram()
    if image.format == "JPEG2000" and any(counts[256 * band] for band in range(len(names))):
        raise ValueError(
            f"a JPEG 2000 of more than 8 bits in {image.mode} has samples of 0, and Pillow makes white ones 0, too: "
            "convert it to 8 bits"
        )
    alpha = names.index("A") if "A" in names else len(names)
    is_visible = alpha < len(names) and any(counts[256 * alpha + 1 :])
    mask = image.getchannel("A") if is_visible else visible
    counts = image.histogram(mask)
    low: Image.Image | None = None
    for bands in (range(alpha), range(alpha, len(names))):
        highest = max((value for band in bands for value in range(256) if counts[256 * band + value]), default=255)
        if highest >= (1 if image.mode == "CMYK" else 256 // LEAST_SHARE + (image.format in ROUNDED)):
            continue
        if (low := low or low_bytes(image, content)) and not _differ(image, low, mask, bands):
            continue
        message = TOO_LIGHT if image.mode == "CMYK" else HIDDEN if alpha in bands else TOO_DARK
        raise ValueError(message.format(f"below {(highest + 1) * (white + 1) // 256:,}", white))


def _differ(high: Image.Image, low: Image.Image, mask: Image.Image | None, bands: range) -> bool:
    counts = ImageChops.difference(high, low).histogram(mask)
    return any(any(counts[256 * band + 1 : 256 * (band + 1)]) for band in bands)


def low_bytes(image: Image.Image, content: bytes) -> Image.Image | None:
    """Decodes a picture of 16 bits once more.

    Returns:
        The low byte of each sample, in the picture's mode; None where Pillow cannot give it.
    """
    if image.format == "PNG" and content[PNG_COLOR] == GREY_AND_ALPHA:  # 4 bytes a pixel, as in colour of 8 bits
        header = bytearray(content[PNG_HEADER])
        header[PNG_DEPTH - PNG_HEADER.start], header[PNG_COLOR - PNG_HEADER.start] = 8, COLOR_AND_ALPHA
        end = PNG_HEADER.stop
        changed = b"".join((content[: PNG_HEADER.start], header, zlib.crc32(header).to_bytes(4, "big")))
        with Image.open(io.BytesIO(b"".join((changed, memoryview(content)[end + 4 :]))), formats=("PNG",)) as other:
            _, grey, _, alpha = other.split()
        return Image.merge("RGBA", (grey, grey, grey, alpha))
    if image.format not in ("PNG", "TIFF", "PPM") or tags_of(image).get(PLANAR) == 2:
        return None
    with Image.open(io.BytesIO(content), formats=(image.format,)) as other:
        assert isinstance(other, ImageFile.ImageFile)
        if tags_of(other).get(BITS) == DEEP_GREY_AND_ALPHA:
            return grey_and_alpha(other, 0)
        mend_tiles(other)
        for number, tile in enumerate(other.tile):
            name, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
            if ";16" not in str(name) or str(name).startswith("RGBa"):
                return None
            own = f"{name}"[:-1] + LOW_BYTE[f"{name}"[-1]]
            other.tile[number] = type(tile)(*tile[:3], (own, *rest) if rest else own)
        other.load()
        return other


def mend_tiles(image: ImageFile.ImageFile) -> None:
    """Has a PPM of 16 bits and a DDS of whole bytes decoded as other formats are, and not in Python."""
    for number, tile in enumerate(image.tile):
        raw_modes = {"ppm": PPM_OF_16_BITS, "dds_rgb": DDS_OF_BYTES}.get(tile.codec_name)
        if raw_modes and (raw_mode := raw_modes.get(tile.args)):
            image.tile[number] = type(tile)("raw", *tile[1:3], (raw_mode, 0, 1))
