"""Whole numbers of a FITS have the sign that its header says."""

import numpy as np
import pytest

from tests.support.picture_files import GRADIENT
from tokenization.config.pictures import Transform
from tokenization.corpora.pictures import load_picture

SIDE = len(GRADIENT)
RAMP = np.tile(GRADIENT, (SIDE, 1))
EXPECTED = np.rint(GRADIENT * 255)[None, :, None]


def fits(samples: np.ndarray, *cards: str) -> bytes:
    numbers = {"BITPIX": 8 * samples.dtype.itemsize, "NAXIS": 2, "NAXIS1": SIDE, "NAXIS2": SIDE}
    lines = ["SIMPLE  = T", *(f"{name:8}= {value}" for name, value in numbers.items()), *cards, "END"]
    header = "".join(line.ljust(80) for line in lines).ljust(2880).encode()
    return header + samples[::-1].astype(samples.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("zero", ["32768", "3.2768D+04 / offset of the data", "  32768.0"])
def test_unsigned_samples_are_those_of_which_half_the_range_was_taken(zero: str) -> None:
    samples = (np.rint(RAMP * 65_535) - 32_768).astype(np.int16)
    pixels = load_picture(fits(samples, f"BZERO   = {zero}", "BSCALE  = 1"), Transform(SIDE)).pixels
    assert np.abs(pixels - EXPECTED).max() <= 1.01


def test_samples_of_32_bits_too() -> None:
    samples = (np.rint(RAMP * (2**32 - 1)) - 2**31).astype(np.int32)
    pixels = load_picture(fits(samples, "BZERO   = 2147483648"), Transform(SIDE)).pixels
    assert np.abs(pixels - EXPECTED).max() <= 1.01


def test_another_offset_leaves_black_unknown() -> None:
    samples = np.rint(RAMP * 30_000).astype(np.int16)
    with pytest.raises(ValueError, match="a FITS of 16 bits with BZERO -1000, so that its black is unknown: store"):
        load_picture(fits(samples, "BZERO   = -1000"), Transform(SIDE))
    assert load_picture(fits(samples, "BZERO   = 0"), Transform(SIDE)).pixels.max() == 116
