"""Rows of token tables as training reads them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Caption:
    """One caption: its language, its text ids, and the length of its text in UTF-8 bytes, 0 if texts were not read."""

    language: str
    ids: list[int]
    num_bytes: int


@dataclass(frozen=True)
class Row:
    """One picture: its codes, uint16 [N], those of the high resolution, uint16 [M] or None, and its captions.

    For an interleaved document: the first picture's values, and in `document` the text ids as lists and the pictures'
    codes, in order.
    """

    sample_id: str
    codes: np.ndarray
    high_codes: np.ndarray | None
    captions: list[Caption]
    document: list[list[int] | np.ndarray] | None = None
