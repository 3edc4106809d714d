"""A picture of every code, with which the page shows pictures while they grow."""

import asyncio
import time
from collections.abc import Callable

import numpy as np

from pipeline.serving.pixels import Pixels, encoded

PATCHES_AT_ONCE, PATCHES_A_ROW = 32, 128
IDLE_S, MOST_POLITE_S = 0.25, 2.0
"""A batch of patches takes a twentieth of a second on a core. It waits until no row has run for the first number of
seconds, so that it does not come between the requests of one client, and at most for the second one."""


async def patches_of(pixels: Pixels, codebook_size: int, num_running: Callable[[], int]) -> bytes:
    """A PNG of what each code looks like alone: one square a code, in rows of 128, in the order of the codes.

    Pictures go first: `num_running` tells how many rows of a batch run.
    """
    busy_at = time.monotonic()
    tiles: list[np.ndarray] = []
    for start in range(0, codebook_size, PATCHES_AT_ONCE):
        busy_at = await _idle_since(busy_at, num_running)
        codes = range(start, min(start + PATCHES_AT_ONCE, codebook_size))
        tiles += await asyncio.gather(*(pixels.pixels_of([code]) for code in codes))
    small = [_small(tile) for tile in tiles]
    starts = range(0, codebook_size, PATCHES_A_ROW)
    rows = [np.concatenate(small[start : start + PATCHES_A_ROW], axis=1) for start in starts]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return await asyncio.to_thread(encoded, np.concatenate(rows), "PNG")


async def _idle_since(busy_at: float, num_running: Callable[[], int]) -> float:
    """Waits for a moment in which patches disturb nobody, or for `MOST_POLITE_S`.

    Args:
        busy_at: when a row was last seen running, by the monotonic clock.
        num_running: rows that run.

    Returns:
        The same, now.
    """
    now = time.monotonic()
    ends = now + MOST_POLITE_S
    while now < ends:
        busy_at = now if num_running() else busy_at
        if now - busy_at >= IDLE_S:
            break
        await asyncio.sleep(0.05)
        now = time.monotonic()
    return busy_at


def _small(tile: np.ndarray) -> np.ndarray:
    """A code's square at a quarter of its side."""
    side = max(1, len(tile) // 4)
    small: np.ndarray = tile[: side * 4, : side * 4].reshape(side, 4, side, 4, 3).mean((1, 3)).round().astype(np.uint8)
    return small
