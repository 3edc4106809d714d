"""Balanced packing of samples into rows, and of rows onto ranks."""

from collections.abc import Sequence

import numpy as np

from pipeline.errors import InputError


def pack_rows(lengths: Sequence[int] | np.ndarray, seq_len: int, world_size: int) -> list[np.ndarray]:
    """Distributes samples over the smallest multiple of `world_size` rows such that every row fits in `seq_len`.

    Puts the longest sample first into the emptiest row: rows get nearly equal lengths, so that ranks do equal work and
    padding is small. Deterministic. Returns the sample indices of each row, int64; with few samples rows can be empty.

    Raises:
        InputError: a sample is longer than `seq_len`.
    """
    sizes = np.asarray(lengths, np.int64)
    if not len(sizes):
        return []
    if sizes.max() > seq_len:
        raise InputError(f"a sample of {sizes.max()} tokens does not fit into seq_len {seq_len}; raise seq_len")
    longest_first = np.argsort(-sizes, kind="stable")
    rows_at_least = -(-int(sizes.sum()) // seq_len)
    num_rows = -(-rows_at_least // world_size) * world_size
    while True:
        row_of, filled = _balance(sizes[longest_first], num_rows)
        if filled.max() <= seq_len:
            by_row = np.argsort(row_of, kind="stable")
            return np.split(longest_first[by_row], np.cumsum(np.bincount(row_of, minlength=num_rows))[:-1])
        num_rows += world_size


def deal_rows(
    rows: list[np.ndarray], costs: Sequence[float] | np.ndarray, rank: int, world_size: int, size: int
) -> list[list[np.ndarray]]:
    """Returns the rows of each of a rank's micro-steps, `size` rows each (fewer in the last).

    Ranks wait for each other in every layer, so a micro-step takes as long as its slowest rank. Therefore rows of
    similar cost are put into the same micro-step.

    Args:
        rows: as returned by `pack_rows`, a multiple of `world_size`.
        costs: the cost of each row, in any unit.
        rank, world_size: the rank that gets the rows.
        size: rows per rank in one micro-step.
    """
    by_cost = np.argsort(-np.asarray(costs), kind="stable")
    dealt = []
    for start in range(0, len(rows), size * world_size):
        block = by_cost[start : start + size * world_size]
        each = len(block) // world_size
        dealt.append([rows[row] for row in block[rank * each : (rank + 1) * each]])
    return dealt


def _balance(sizes: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts each of the sizes, which descend, into the row that is emptiest then, or the first of those.

    Many at once: as long as no row that got a sample is emptier than one that got none, the rows take turns in the
    order of how full they are.

    Returns:
        The row of each sample, and how full each row is, int64.
    """
    row_of, filled, done = np.empty(len(sizes), np.int64), np.zeros(num_rows, np.int64), 0
    while done < len(sizes):
        turns = np.argsort(filled, kind="stable")[: len(sizes) - done]
        after = filled[turns] + sizes[done : done + len(turns)]
        emptiest = np.minimum.accumulate(after)[:-1]
        is_turn = filled[turns[1:]] < emptiest
        count = len(turns) if is_turn.all() else 1 + int(is_turn.argmin())
        row_of[done : done + count] = turns[:count]
        filled[turns[:count]] = after[:count]
        done += count
    return row_of, filled
