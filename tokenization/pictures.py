"""From picture bytes to the square the VQ-GAN encodes."""

import io
import warnings
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image, ImageOps

RESAMPLING = Image.Resampling.BICUBIC


@dataclass(frozen=True)
class Transform:
    """Centre crop to a square, scaled to `size_px`. Its values are part of the tokens' fingerprint.

    Attributes:
        size_px: side of the square handed to the VQ-GAN, px.
        max_pixels: a source picture with more pixels is rejected.
    """

    size_px: int
    max_pixels: int = 89_000_000

    def parameters(self) -> dict[str, int | str]:
        """What the fingerprint records."""
        return asdict(self) | {"crop": "centre square", "resampling": RESAMPLING.name.lower(), "alpha": "over white"}


@dataclass(frozen=True)
class Picture:
    """`pixels` uint8 [size_px, size_px, 3]; source size and crop box (left, top, side) in source px."""

    pixels: np.ndarray
    width: int
    height: int
    crop: tuple[int, int, int]


def load_picture(content: bytes, transform: Transform) -> Picture:
    """Decodes, rotates after EXIF, puts alpha over white, crops and scales.

    Raises:
        ValueError: the bytes are no picture that Pillow can read, or it has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides instead
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > transform.max_pixels:
                    size = f"{image.width} x {image.height} px"
                    raise ValueError(f"picture has {size}, more than max_pixels {transform.max_pixels}")
                rgb = _over_white(ImageOps.exif_transpose(image))
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders let out whatever broken bytes make them raise
        raise ValueError(f"not a readable picture: {error}") from error
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    box = (left, top, left + side, top + side)
    square = rgb.resize((transform.size_px, transform.size_px), RESAMPLING, box=box, reducing_gap=3.0)
    return Picture(np.asarray(square), rgb.width, rgb.height, (left, top, side))


def _over_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip at 255
        scaled = np.asarray(image).astype(np.int64).clip(0, 65_535) // 257
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
