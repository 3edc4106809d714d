"""Balanced packing of samples into rows."""

import heapq

from pipeline.errors import InputError


def pack_rows(lengths: list[int], seq_len: int, world_size: int) -> list[list[int]]:
    """Distributes samples over the fewest rows, a multiple of `world_size`, that all fit in `seq_len`.

    Longest first into the emptiest row: rows come out nearly equal, so that ranks do equal work and padding
    is small. Deterministic. Returns the sample indices of each row; with few samples rows can be empty.

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


def _balance(lengths: list[int], num_rows: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    heap = [(0, row) for row in range(num_rows)]
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        filled, row = heapq.heappop(heap)
        rows[row].append(index)
        heapq.heappush(heap, (filled + lengths[index], row))
    return rows
