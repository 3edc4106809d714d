"""Balanced packing of samples into rows, and of rows onto ranks."""

import heapq
from collections.abc import Sequence

from pipeline.errors import InputError


def pack_rows(lengths: list[int], seq_len: int, world_size: int) -> list[list[int]]:
    """Distributes samples over the smallest multiple of `world_size` rows such that every row fits in `seq_len`.

    Puts the longest sample first into the emptiest row: rows get nearly equal lengths, so that ranks do equal work and
    padding is small. Deterministic. Returns the sample indices of each row; with few samples rows can be empty.

    Raises:
        InputError: a sample is longer than `seq_len`.
    """
    if not lengths:
        return []
    longest = max(lengths)
    if longest > seq_len:
        raise InputError(f"a sample of {longest} tokens does not fit into seq_len {seq_len}; raise seq_len")
    rows_at_least = -(-sum(lengths) // seq_len)
    num_rows = -(-rows_at_least // world_size) * world_size
    while True:
        rows = _balance(lengths, num_rows)
        if max(sum(lengths[index] for index in row) for row in rows) <= seq_len:
            return rows
        num_rows += world_size


def deal_rows(
    rows: list[list[int]], costs: Sequence[float], rank: int, world_size: int, size: int
) -> list[list[list[int]]]:
    """Returns the rows of each of a rank's micro-steps, `size` rows each (fewer in the last).

    Ranks wait for each other in every layer, so a micro-step takes as long as its slowest rank. Therefore rows of
    similar cost are put into the same micro-step.

    Args:
        rows: as returned by `pack_rows`, a multiple of `world_size`.
        costs: the cost of each row, in any unit.
        rank, world_size: the rank that gets the rows.
        size: rows per rank in one micro-step.
    """
    by_cost = sorted(range(len(rows)), key=lambda row: (-costs[row], row))
    dealt = []
    for start in range(0, len(rows), size * world_size):
        block = by_cost[start : start + size * world_size]
        each = len(block) // world_size
        dealt.append([rows[row] for row in block[rank * each : (rank + 1) * each]])
    return dealt


def _balance(lengths: list[int], num_rows: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    heap = [(0, row) for row in range(num_rows)]
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        filled, row = heapq.heappop(heap)
        rows[row].append(index)
        heapq.heappush(heap, (filled + lengths[index], row))
    return rows
