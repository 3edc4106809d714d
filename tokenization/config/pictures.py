"""Settings for scaling and cropping pictures, and limits for rejecting them."""

from dataclasses import asdict, dataclass

from tokenization.config.checks import below

RESAMPLING = "bicubic"
"""Pillow's name of the filter, in lower case."""


@dataclass(frozen=True)
class Limits:
    """Limits for source pictures. Pictures beyond them are rejected before they are decoded.

    Attributes:
        max_bytes: maximum size of the file.
        max_pixels: maximum width times height; Pillow's own limit against decompression bombs.
        max_side_px: maximum length of the longer side.
        min_side_px: minimum length of the shorter side.
        max_aspect_ratio: longer side over shorter side; a centre square shows too little of a longer picture.
    """

    max_bytes: int = 100_000_000
    max_pixels: int = 89_000_000
    max_side_px: int = 65_535
    min_side_px: int = 1
    max_aspect_ratio: float = 20.0

    def problems(self) -> list[str]:
        """Returns the reasons why no picture could be within the limits; empty if one could."""
        found = below(1, self, ("max_bytes", "max_pixels", "max_side_px", "max_aspect_ratio"))
        found += below(0, self, ("min_side_px",))
        if self.min_side_px > self.max_side_px:
            found.append(f"min_side_px is {self.min_side_px}, more than max_side_px, {self.max_side_px}")
        elif self.min_side_px**2 > self.max_pixels:
            found.append(f"min_side_px is {self.min_side_px}, whose square is more than max_pixels, {self.max_pixels}")
        return found

    def check_bytes(self, num_bytes: int) -> None:
        """Raises ValueError if the file is too large."""
        if num_bytes > self.max_bytes:
            raise ValueError(f"picture has {num_bytes} bytes, more than max_bytes {self.max_bytes}")

    def check_size(self, width: int, height: int) -> None:
        """Raises ValueError if the size, in px, is beyond a limit."""
        size, longer, shorter = f"picture has {width} x {height} px", max(width, height), min(width, height)
        if width * height > self.max_pixels:
            raise ValueError(f"{size}, more than max_pixels {self.max_pixels}")
        if longer > self.max_side_px:
            raise ValueError(f"{size}, longer than max_side_px {self.max_side_px}")
        if shorter < self.min_side_px:
            raise ValueError(f"{size}, shorter than min_side_px {self.min_side_px}")
        if longer > self.max_aspect_ratio * shorter:
            raise ValueError(f"{size}, beyond max_aspect_ratio {self.max_aspect_ratio:g}")


@dataclass(frozen=True)
class Transform:
    """Centre crop to a square, scaled. Its values are part of the tokens' fingerprint.

    Attributes:
        size_px: side of the square handed to the VQ-GAN, px.
        size_hr_px: side of the same crop at the high resolution, px; 0 for none.
        limits: limits of the pictures that are used.
    """

    size_px: int
    size_hr_px: int = 0
    limits: Limits = Limits()

    def parameters(self) -> dict[str, int | float | str]:
        """The values that the fingerprint records."""
        own = {"size_px": self.size_px, "size_hr_px": self.size_hr_px} | asdict(self.limits)
        return own | {"crop": "centre square", "resampling": RESAMPLING, "alpha": "over white"}
