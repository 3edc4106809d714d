"""Pixels of any depth as 8 bits of red, green and blue.

8 bits and less need no rule. Deeper samples are scaled by the range that their format states: white is 65,535 in 16
bits, and 4,095 in a TIFF of 12. Integers of 32 bits and floating-point numbers state none, so the largest sample
decides: the range is the smallest of `RANGES` that holds it. A picture whose brightest sample does not reach 1/16 of
its range is refused: it would be nearly black, and almost always has fewer bits than its file. So are negative samples
and those that are no finite numbers.
"""

import io
import re
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import TiffImageFile

RANGES = {"I": (255, 65_535, 2**31 - 1), "unsigned": (255, 65_535, 2**32 - 1), "F": (1, 255, 65_535)}
"""Possible values of white: of signed and of unsigned integers of 32 bits, and of floating-point numbers."""
LEAST_SHARE = 16
"""The brightest sample must reach the range over this."""
STATED_IN_32_BITS = ("PNG", "PPM", "JPEG2000")
"""Formats whose samples of up to 16 bits Pillow scales to 65,535, in whatever mode."""
ALPHA_MAY_BE_UNSET = ("BMP", "DIB", "ICO", "CUR", "TGA", "DDS")
"""Formats that often have a fourth byte without a meaning: 0 in all pixels then, although nothing is transparent."""
PHOTOMETRIC, BITS, EXTRA_SAMPLES, SAMPLE_FORMAT, COLOR_MAP = 262, 258, 338, 339, 320
"""Tags of a TIFF."""
PPM_HEADER = re.compile(rb"P6\s(?:#.*\n|\s)*\d+\s(?:#.*\n|\s)*\d+\s(?:#.*\n|\s)*(\d+)\s")
SAMPLES_AT_ONCE = 4_000_000
TOO_DARK = "the brightest sample of the picture is {}, and white is {:,}: scale it to the whole range"
OTHER_BYTE = {"B": "L", "N": "L", "L": "B"}
"""Ends of Pillow's names of 16-bit samples. A mode of 8 bits gets the high byte of each sample; with the other end it
gets the low one."""


def as_rgb(image: Image.Image, content: bytes) -> Image.Image:
    """Returns a loaded picture in mode RGB, alpha blended over white.

    Args:
        image: the picture.
        content: its file, which says more than Pillow does.

    Raises:
        ValueError: its range cannot be told; see the module.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image)
    _mend_palette(image)
    _mend_transparency(image, content)
    _check_deep_colour(image, content)
    if image.mode == "LAB":
        return _of_lab(image)
    if image.has_transparency_data and not _is_alpha_unset(image):
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _tags(image: Image.Image) -> dict[int, Any]:
    """The tags of a TIFF that decide how it is decoded."""
    return dict(image.tag_v2) if isinstance(image, TiffImageFile) else {}


def _deep_grey(image: Image.Image) -> Image.Image:
    samples, tags = np.asarray(image), _tags(image)
    if image.mode == "I" and tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (1,)) == (1,):
        samples = samples.view(np.uint32)
    if image.format == "FITS" and image.mode == "I;16":  # signed there
        samples = samples.view(np.int16)
    white, transparent = _white(samples, image.mode, image.format, tags), image.info.get("transparency")
    grey = np.empty(samples.shape, np.uint8)
    rows = max(1, SAMPLES_AT_ONCE // samples.shape[1])
    for start in range(0, len(samples), rows):
        part = samples[start : start + rows]
        scaled = _scaled(white - part if tags.get(PHOTOMETRIC) == 0 else part, white).astype(np.uint8)
        grey[start : start + rows] = scaled if transparent is None else np.where(part == transparent, 255, scaled)
    return Image.fromarray(grey).convert("RGB")


def _scaled(samples: np.ndarray, white: int) -> np.ndarray:
    if white == 255:
        return samples
    return samples // 257 if white == 65_535 else np.rint(samples * (255.0 / white))


def _white(samples: np.ndarray, mode: str, kind: str | None, tags: dict[int, Any]) -> int:
    """Returns the value of white."""
    lowest, highest = samples.min(), samples.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ValueError("the picture has samples that are no finite numbers")
    if lowest < 0:
        raise ValueError(f"the picture has negative samples, down to {lowest:g}, so that its black is unknown")
    if tags.get(BITS) == (12,):
        ranges: tuple[int, ...] = (4095,)
    elif samples.dtype.itemsize == 2 or tags.get(BITS) == (16,) or (mode == "I" and kind in STATED_IN_32_BITS):
        ranges = (65_535,)  # of signed ones as well
    else:
        ranges = RANGES["unsigned" if samples.dtype == np.uint32 else mode]
    white = next((each for each in ranges if highest <= each), 0)
    if not white:
        raise ValueError(f"the picture has samples up to {highest:g}, more than any usual value of white")
    if 0 < highest < white / LEAST_SHARE:
        raise ValueError(TOO_DARK.format(f"{highest:g}", white))
    return white


def _mend_palette(image: Image.Image) -> None:
    """Takes a TIFF's palette for one of 8 bits if none of its 16-bit values is above 255, as libtiff does."""
    if image.mode in ("P", "PA") and (colors := _tags(image).get(COLOR_MAP)) and 0 < max(colors) < 256:
        image.putpalette(bytes(colors), "RGB;L")


def _mend_transparency(image: Image.Image, content: bytes) -> None:
    """Scales the transparent colour of a PNG to 8 bits, as Pillow scales the samples but not that colour."""
    if image.format != "PNG" or image.mode not in ("L", "RGB") or "transparency" not in image.info:
        return
    depth, color = content[24], image.info["transparency"]

    def scaled(sample: int) -> int:
        return sample >> 8 if depth == 16 else (sample & (2**depth - 1)) * 255 // (2**depth - 1)

    image.info["transparency"] = tuple(map(scaled, color)) if isinstance(color, tuple) else scaled(color)


def _check_deep_colour(image: Image.Image, content: bytes) -> None:
    """Raises ValueError if no sample of an opaque picture in 16-bit colour reaches 1/16 of its range, unless all are 0.

    Pillow keeps the high byte of each sample only."""
    if image.format == "PPM" and (header := PPM_HEADER.match(content)) and (white := int(header[1])) > 255:
        highest = np.frombuffer(content, ">u2", 3 * image.width * image.height, header.end()).max()
        if 0 < highest < white / LEAST_SHARE:
            raise ValueError(TOO_DARK.format(highest, white))
    if image.format in ("PNG", "SGI"):
        bits = content[24] if image.format == "PNG" else 8 * content[3]
    else:
        bits = _tags(image).get(BITS, (8,))[0]
    if bits != 16:
        return
    extrema = _extrema(image)
    has_alpha = image.mode in ("LA", "RGBA")
    if has_alpha and extrema[-1][0] < 255:
        return
    colors = extrema[:-1] if has_alpha else extrema
    if (highest := max(most for _, most in colors)) >= 256 // LEAST_SHARE:
        return
    if highest or (image.format != "SGI" and _has_low_bytes(content)):
        raise ValueError(TOO_DARK.format(f"below {int(highest + 1) * 256:,}", 65_535))


def _has_low_bytes(content: bytes) -> bool:
    """True if a 16-bit picture has a sample with a low byte other than 0."""
    with Image.open(io.BytesIO(content), formats=("PNG", "TIFF")) as image:
        for number, tile in enumerate(image.tile):
            name, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
            other = f"{name}"[:-1] + OTHER_BYTE.get(f"{name}"[-1], "")
            image.tile[number] = type(tile)(*tile[:3], (other, *rest) if rest else other)
        try:
            return any(most for _, most in _extrema(image))
        except (ValueError, OSError):  # Pillow has no such name
            return False


def _is_alpha_unset(image: Image.Image) -> bool:
    may_be = image.format in ALPHA_MAY_BE_UNSET or (image.format == "TIFF" and EXTRA_SAMPLES not in _tags(image))
    if not may_be or image.mode != "RGBA":
        return False
    *colors, alpha = _extrema(image)
    return alpha == (0, 0) and any(most for _, most in colors)


def _extrema(image: Image.Image) -> list[tuple[float, float]]:
    """The lowest and the highest sample of each band."""
    return [cast(tuple[float, float], band.getextrema()) for band in image.split()]


def _of_lab(image: Image.Image) -> Image.Image:
    profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    assert converted is not None
    return converted
