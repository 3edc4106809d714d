"""The rows that a reader passes to an encoder."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenization.table.manifest import Notes


@dataclass
class Chunk:
    """Up to `encode_batch_size` rows of one shard.

    `pixels` uint8 [encode_batch_size, S, S, 3], padded with zeros; `rows` without their codes;
    `pixels_hr` uint8 [n, S_hr, S_hr, 3], and `places_hr` the indices of their rows; `rejects` since the previous chunk;
    `notes` since the previous chunk; `last` is True in the shard's last chunk; `error` is set if the shard cannot be
    read.
    """

    shard: str
    index: int
    pixels: np.ndarray
    rows: list[dict[str, Any]] = field(default_factory=list)
    pixels_hr: np.ndarray | None = None
    places_hr: list[int] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    last: bool = False
    error: str = ""
