"""Decodes pictures and crops them to the squares that the VQ-GAN encodes."""

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from tokenization.config.pictures import RESAMPLING, Transform

REDUCING_GAP = 3.0
"""Before resampling, Pillow averages blocks down to this multiple of the target size; JPEG is decoded to that size."""
FILTER = Image.Resampling[RESAMPLING.upper()]
LATE_SHARE = 1
"""A picture of at most this multiple of the high resolution's pixels is resized to it only when that is asked for. Till
then Pillow holds 4 bytes a pixel of it; the resized one has 3."""
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

Image.init()
Image.MAX_IMAGE_PIXELS = None  # the limits below decide, even if they allow more
FORMATS = tuple(name for name in Image.ID if name not in {"EPS", "WMF"})
"""All formats that Pillow opens by itself; for EPS it would run Ghostscript on untrusted input."""


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
    """Decodes the first frame, rotates it by EXIF, blends alpha over white, crops and scales.

    Raises:
        ValueError: the bytes are no picture that Pillow can read, or it is beyond the limits.
    """
    transform.limits.check_bytes(len(content))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limits catch decompression bombs; damaged metadata is harmless
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                full = image.size
                transform.limits.check_size(*full)
                needed = math.ceil(REDUCING_GAP * max(transform.size_px, transform.size_hr_px))
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
                image.draft(None, (needed, needed))  # JPEG only: to 1/2, 1/4 or 1/8, as far as that is large enough
                reduced = image.size != full
                rgb = _over_white(ImageOps.exif_transpose(image))
    except ValueError:
        raise
    except Exception as error:  # broken bytes can make Pillow's decoders raise any exception
        raise ValueError(f"not a readable picture: {error}") from error
    if reduced:
        width, height = full[::-1] if turned else full
    else:
        width, height = rgb.size
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


def _same(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _over_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip at 255
        scaled = np.asarray(image).astype(np.int32).clip(0, 65_535) // 257
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode == "LAB":
        profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None
        return converted
    return image.convert("RGB")
