"""The samples of a FITS, whose header may say that they have no sign (FITS standard 4.0, 4.4.2.5)."""

import numpy as np

CARD_BYTES = 80
MOST_CARDS = 10_000


def fits_samples(samples: np.ndarray, content: bytes) -> np.ndarray:
    """Whole numbers with their sign, or without one if BZERO says so.

    Args:
        samples: as Pillow gives them, of 16 or 32 bits.
        content: the file.

    Raises:
        ValueError: BZERO is another number than 0 and half of the range, so that black is unknown.
    """
    bits = 8 * samples.dtype.itemsize
    zero, half = _zero(content), 2 ** (bits - 1)
    if zero == half:
        unsigned: np.ndarray = samples.view(f"u{bits // 8}") ^ np.array(half, f"u{bits // 8}")
        return unsigned
    if zero:
        raise ValueError(
            f"a FITS of {bits} bits with BZERO {zero:g}, so that its black is unknown: store unsigned samples"
        )
    return samples.view(f"i{bits // 8}")


def _zero(content: bytes) -> float:
    """BZERO, what is to be added to a sample; 0 if it is not there, or is no number."""
    for at in range(0, min(len(content), MOST_CARDS * CARD_BYTES), CARD_BYTES):
        keyword, _, value = content[at : at + CARD_BYTES].partition(b"=")
        if keyword.strip() == b"BZERO":
            try:
                return float(value.split(b"/")[0].replace(b"D", b"E"))
            except ValueError:
                return 0
        if keyword.strip() == b"END":
            return 0
    return 0
