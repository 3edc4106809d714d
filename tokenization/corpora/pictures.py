"""Decodes pictures and crops them to the squares that the VQ-GAN encodes."""

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from tokenization.config.pictures import RESAMPLING, Transform
from tokenization.corpora.deep_colour import mend_tiles, stated_white
from tokenization.corpora.icons import ICON, picture_in_icon
from tokenization.corpora.jpeg_2000 import check_tiles, halve
from tokenization.corpora.jpeg_xl import is_jpeg_xl, read_header
from tokenization.corpora.picture_depth import as_rgb
from tokenization.corpora.picture_formats import FORMATS, check_work, is_decoded_in_python, plugin_for
from tokenization.corpora.picture_mends import drawn_part, mend_order, on_white, positive
from tokenization.corpora.picture_metadata import SIDEWAYS, TURNS, Encoded, orientation_of, strip_metadata
from tokenization.corpora.picture_parts import BoundedFile
from tokenization.corpora.picture_photoshop import mend_channels
from tokenization.corpora.picture_tiff import check_layout
from tokenization.files.content import START_BYTES, content_of, one_line, what_it_is

REDUCING_GAP = 3.0
"""Before resampling, Pillow averages blocks down to this multiple of the target size; JPEG is decoded to that size."""
FILTER = Image.Resampling[RESAMPLING.upper()]
LATE_SHARE = 1
"""A picture of at most this multiple of the high resolution's pixels is resized to it only when that is asked for. Till
then Pillow holds 4 bytes a pixel of it; the resized one has 3."""


@dataclass(frozen=True)
class Picture:
    """A decoded and cropped picture.

    Attributes:
        pixels: uint8 [size_px, size_px, 3].
        width, height: size of the source in px, after EXIF's rotation.
        crop: left, top and side of the crop, in source px.
        high: returns the crop at the high resolution, uint8 [size_hr_px, size_hr_px, 3]; None without one.
    """

    pixels: np.ndarray
    width: int
    height: int
    crop: tuple[int, int, int]
    high: Callable[[], np.ndarray] | None = None


def load_picture(content: bytes, transform: Transform) -> Picture:
    """Decodes the first frame, blends alpha over white, makes it upright, crops and scales.

    Raises:
        ValueError: the bytes are no picture that Pillow can read, or it is beyond the limits.
    """
    transform.limits.check_bytes(len(content))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            rgb, width, height = _decoded(content, transform)
    except ValueError as error:
        raise ValueError(one_line(error)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"picture has more than max_pixels {transform.limits.max_pixels}: {error}") from error
    except (UnidentifiedImageError, KeyError) as error:  # the latter are from tables of depths and modes
        raise ValueError(f"not a readable picture: {_named(content)}{plugin_for(content)}") from error
    except Exception as error:  # broken bytes can make Pillow's decoders raise any exception
        raise ValueError(f"not a readable picture: {one_line(error)}") from error
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2

    def square(size_px: int) -> np.ndarray:
        across, down = rgb.width / width, rgb.height / height
        box = (left * across, top * down, (left + side) * across, (top + side) * down)
        return np.asarray(rgb.resize((size_px, size_px), FILTER, box=box, reducing_gap=REDUCING_GAP))

    high = None
    if size_hr_px := transform.size_hr_px:
        # Most pictures of a corpus are never asked for it. A large one is resized all the same, since it takes more
        # memory as it is.
        early = square(size_hr_px) if rgb.width * rgb.height > LATE_SHARE * size_hr_px**2 else None
        high = partial(square, size_hr_px) if early is None else partial(_same, early)
    return Picture(square(transform.size_px), width, height, (left, top, side), high)


def _decoded(content: bytes, transform: Transform) -> tuple[Image.Image, int, int]:
    """Returns the upright picture in mode RGB, and its width and height in px, of which a JPEG may have a part only."""
    content = picture_in_icon(content)
    encoded = strip_metadata(content)
    if is_jpeg_xl(content):
        header = read_header(content)
        transform.limits.check_size(header.width, header.height)
        if header.is_animated:
            raise ValueError("an animated JPEG XL, of which the plugin gives the last frame; store the first one alone")
    # Pillow's own check is for pictures inside of others, of which it decodes that of an icon when it opens the icon.
    # Elsewhere the limits below say more.
    Image.MAX_IMAGE_PIXELS = transform.limits.max_pixels if content.startswith(ICON) else None
    file = BoundedFile(encoded.content)
    with Image.open(file, formats=FORMATS) as image:
        full = image.size
        transform.limits.check_size(*full)
        Image.MAX_IMAGE_PIXELS = transform.limits.max_pixels
        needed = math.ceil(REDUCING_GAP * max(transform.size_px, transform.size_hr_px))
        stated = _prepared(image, encoded.content)
        check_work(image, encoded.content)
        box = drawn_part(image)
        image.draft(None, (needed, needed))  # JPEG only: to 1/2, 1/4 or 1/8, as far as that is large enough
        reduced = halve(image, encoded.content, needed) or image.size != full
        if is_decoded_in_python(image):  # such decoders may read each pixel by itself, and pixels are bounded
            image.fp = io.BytesIO(encoded.content)
            image.fp.seek(file.tell())
        image.load()
        if not reduced:  # an icon has the size of the picture in it
            full = image.size
            transform.limits.check_size(*full)
        orientation = _orientation(image, encoded)
        rgb = on_white(as_rgb(positive(image), encoded.content, stated), box)
    if orientation in TURNS:
        rgb = rgb.transpose(TURNS[orientation])
    return rgb, *(full[::-1] if orientation in SIDEWAYS else full)


def _prepared(image: Image.Image, content: bytes) -> int:
    """Sets right how an opened picture will be decoded.

    Returns:
        The largest value that a sample can have, as the file states it.

    Raises:
        ValueError: Pillow would decode it wrongly.
    """
    if isinstance(image, ImageFile.ImageFile):
        mend_tiles(image)
        mend_order(image)
    if image.format == "JPEG2000":
        check_tiles(content)
    if image.format == "TIFF":
        check_layout(image)
    if image.format == "PSD":
        mend_channels(image, content)
    return stated_white(image, content)


def _orientation(image: Image.Image, encoded: Encoded) -> int:
    is_turned = is_jpeg_xl(encoded.content) and read_header(encoded.content).orientation != 1
    if is_turned and not getattr(image, "jpeg", False):  # a JPEG inside is given back as it was stored
        return 1
    exif, xmp = (each if isinstance(each := image.info.get(name), bytes) else b"" for name in ("exif", "xmp"))
    if encoded.content[4:8] == b"ftyp":  # properties of the file say it, which decoders report as EXIF
        xmp = b""
    return orientation_of(encoded.exif or exif, encoded.xmp or xmp)


def _named(content: bytes) -> str:
    """Describes a file that Pillow cannot identify."""
    found = content_of(content[:START_BYTES])
    if found and found.kind == "picture" and not found.remedy:
        return f"it is {found}, damaged or of a kind that Pillow does not read; convert it to 8 bits a sample"
    return what_it_is(content[:START_BYTES])


def _same(pixels: np.ndarray) -> np.ndarray:
    return pixels
