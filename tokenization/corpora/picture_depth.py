"""Pixels of any depth as 8 bits of red, green and blue.

8 bits and less need no rule. Deeper samples are scaled by the range that their format states: white is 65,535 in 16
bits, and 4,095 in a TIFF of 12. Integers of 32 bits and floating-point numbers state none, so the largest sample
decides: the range is the smallest of `RANGES` that holds it. A picture whose largest sample does not reach 1/16 of
its range is refused: it would be nearly black, or white where white is 0, and almost always has fewer bits than its
file; `deep_colour` says the same of colour, and has the exceptions. Negative samples, and those that are no finite
numbers, are refused, too. Floating-point numbers may pass black and white by `OVERSHOOT`, as filters leave them.
"""

from typing import Any, cast

import numpy as np
from PIL import Image, ImageChops, ImageCms

from tokenization.corpora.deep_colour import LEAST_SHARE, TOO_DARK, TOO_LIGHT, check_range, low_bytes
from tokenization.corpora.picture_fits import fits_samples
from tokenization.corpora.picture_photoshop import add_alpha
from tokenization.corpora.picture_tiff import (
    BITS,
    COLOR_MAP,
    DEEP_GREY_AND_ALPHA,
    EXTRA_SAMPLES,
    PHOTOMETRIC,
    SAMPLE_FORMAT,
    grey_and_alpha,
    tags_of,
)

RANGES = {"I": (255, 65_535, 2**31 - 1), "unsigned": (255, 65_535, 2**32 - 1), "F": (1, 255, 65_535)}
"""Possible values of white: of signed and of unsigned integers of 32 bits, and of floating-point numbers."""
OVERSHOOT = 1 / 8
"""Share of white by which a floating-point number may be below 0 or above white; it is cut off."""
SIGNED = (2,)
"""A value of a TIFF's `SAMPLE_FORMAT`."""
STATED_IN_32_BITS = ("PNG", "PPM", "JPEG2000")
"""Formats whose samples of up to 16 bits Pillow scales to 65,535, in whatever mode."""
ALPHA_MAY_BE_UNSET = ("BMP", "DIB", "ICO", "CUR", "TGA", "DDS", "SGI", "IM", "BLP")
"""Formats that often have a fourth byte without a meaning: 0 in all pixels then, although nothing is transparent."""
SAMPLES_AT_ONCE = 4_000_000


def as_rgb(image: Image.Image, content: bytes, stated: int) -> Image.Image:
    """Returns a loaded picture in mode RGB, alpha blended over white.

    Args:
        image: the picture.
        content: its file, which says more than Pillow does.
        stated: the largest value that a sample can have, by `deep_colour.stated_white`.

    Raises:
        ValueError: its range cannot be told; see the module.
    """
    tags = tags_of(image)
    if image.mode.startswith("I") or image.mode == "F" or tags.get(SAMPLE_FORMAT) == SIGNED:
        return _deep_grey(image, content)
    if tags.get(BITS) == DEEP_GREY_AND_ALPHA:
        image = grey_and_alpha(image, 1)
    if image.format == "PSD":
        add_alpha(image, content)
    if image.format == "JPEG2000" and stated < 255 and image.mode not in ("P", "PA"):
        image = _of_few_bits(image, stated)
    _mend_palette(image)
    alpha = _transparency(image, content)
    if stated > 255:
        check_range(image, content, stated, alpha)
    if alpha:
        image.putalpha(alpha)
    if image.mode == "LAB":
        return _of_lab(image)
    if image.has_transparency_data:
        return _with_alpha(image).convert("RGB") if _is_alpha_unset(image, tags) else _over_white(image)
    return image.convert("RGB")


def _of_few_bits(image: Image.Image, most: int) -> Image.Image:
    """Scales samples of a JPEG 2000 of less than 8 bits, which Pillow has shifted: 15 of 4 bits is 240."""
    shift = 8 - most.bit_length()
    return image.point([(value >> shift) * 255 // most for value in range(256)] * len(image.getbands()))


def _with_alpha(image: Image.Image) -> Image.Image:
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _over_white(image: Image.Image) -> Image.Image:
    """Blends some rows at a time, as Pillow holds several copies of each."""
    blended, rows = Image.new("RGB", image.size), max(1, SAMPLES_AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        part = _with_alpha(image.crop((0, top, image.width, min(image.height, top + rows))))
        blended.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert("RGB"), (0, top))
    return blended


def _deep_grey(image: Image.Image, content: bytes) -> Image.Image:
    samples, tags = np.asarray(image), tags_of(image)
    if image.mode == "I" and tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (1,)) == (1,):
        samples = samples.view(np.uint32)
    if image.mode == "L":
        samples = samples.view(np.int8)
    if image.format == "FITS" and image.mode != "F":
        samples = fits_samples(samples, content)
    transparent = image.info.get("transparency")
    visible = samples if transparent is None else samples[samples != transparent]
    if not visible.size:
        return Image.new("RGB", image.size, "white")
    white = _white(visible, image.mode, image.format, tags)
    grey = np.empty(samples.shape, np.uint8)
    rows = max(1, SAMPLES_AT_ONCE // samples.shape[1])
    for start in range(0, len(samples), rows):
        part = samples[start : start + rows]
        scaled = _scaled(white - part if tags.get(PHOTOMETRIC) == 0 else part, white).astype(np.uint8)
        grey[start : start + rows] = scaled if transparent is None else np.where(part == transparent, 255, scaled)
    return Image.fromarray(grey).convert("RGB")


def _scaled(samples: np.ndarray, white: int) -> np.ndarray:
    if samples.dtype.kind == "f":
        return np.rint(samples.clip(0, white) * (255.0 / white))
    if white == 255:
        return samples
    return samples // 257 if white == 65_535 else np.rint(samples * (255.0 / white))


def _white(samples: np.ndarray, mode: str, kind: str | None, tags: dict[int, Any]) -> int:
    """Returns the value of white, or of black where white is 0."""
    lowest, highest = samples.min(), samples.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ValueError("the picture has samples that are not finite")
    is_stated = True
    if samples.dtype.itemsize == 1:
        ranges: tuple[int, ...] = (255,)  # of signed ones as well
    elif tags.get(BITS) == (12,):
        ranges = (4095,)
    elif samples.dtype.itemsize == 2 or tags.get(BITS) == (16,) or (mode == "I" and kind in STATED_IN_32_BITS):
        ranges = (65_535,)
    else:
        ranges, is_stated = RANGES["unsigned" if samples.dtype == np.uint32 else mode], False
    over = OVERSHOOT if mode == "F" else 0
    white = next((each for each in ranges if highest <= each * (1 + over)), 0)
    if lowest < -over * white or (lowest < 0 and not white):
        raise ValueError(f"the picture has negative samples, down to {lowest:g}, so that its black is unknown")
    if not white:
        raise ValueError(f"the picture has samples up to {highest:g}, more than any usual value of white")
    is_low = samples.dtype.itemsize > 1 and 0 < highest < white / LEAST_SHARE
    if is_low and not (is_stated and white == 65_535 and _is_scaled(samples)):
        raise ValueError((TOO_LIGHT if tags.get(PHOTOMETRIC) == 0 else TOO_DARK).format(f"{highest:g}", white))
    return white


def _is_scaled(samples: np.ndarray) -> bool:
    """True if all samples are 8 bits that were scaled to 16."""
    flat = samples.reshape(-1)
    return not any((flat[at : at + SAMPLES_AT_ONCE] % 257).any() for at in range(0, len(flat), SAMPLES_AT_ONCE))


def _mend_palette(image: Image.Image) -> None:
    """Takes a TIFF's palette for one of 8 bits if none of its 16-bit values is above 255, as libtiff does."""
    if image.mode in ("P", "PA") and (colors := tags_of(image).get(COLOR_MAP)) and 0 < max(colors) < 256:
        image.putpalette(bytes(colors), "RGB;L")


def _transparency(image: Image.Image, content: bytes) -> Image.Image | None:
    """Takes the transparent colour of a PNG for one of the depth of its samples, as Pillow scales those alone.

    Returns:
        Alpha, if the colour has 16 bits, and Pillow's pixels cannot tell it from others.
    """
    if image.format != "PNG" or image.mode not in ("L", "RGB") or "transparency" not in image.info:
        return None
    depth, color = content[24], image.info["transparency"]
    if depth == 16:
        return _unlike(image, content, image.info.pop("transparency"))

    def scaled(sample: int) -> int:
        white = (1 << depth) - 1
        return (sample & white) * 255 // white

    image.info["transparency"] = tuple(map(scaled, color)) if isinstance(color, tuple) else scaled(color)
    return None


def _unlike(image: Image.Image, content: bytes, color: tuple[int, ...]) -> Image.Image:
    """Alpha of a loaded picture in 16-bit colour: 0 where the samples are those of `color`."""
    low, opaque = low_bytes(image, content), Image.new("L", image.size)
    assert low is not None
    for number, sample in enumerate(color):
        for half, value in ((image, sample >> 8), (low, sample & 255)):
            other = half.getchannel(number).point([0 if each == value else 255 for each in range(256)])
            opaque = ImageChops.lighter(opaque, other)
    return opaque


def _is_alpha_unset(image: Image.Image, tags: dict[int, Any]) -> bool:
    may_be = image.format in ALPHA_MAY_BE_UNSET or (image.format == "TIFF" and EXTRA_SAMPLES not in tags)
    if not may_be:
        return False
    *colors, alpha = _extrema(_with_alpha(image))
    return alpha == (0, 0) and any(most for _, most in colors)


def _extrema(image: Image.Image) -> list[tuple[float, float]]:
    """The lowest and the highest sample of each band."""
    return [cast(tuple[float, float], band.getextrema()) for band in image.split()]


def _of_lab(image: Image.Image) -> Image.Image:
    profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    assert converted is not None
    return converted
