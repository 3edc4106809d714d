"""Balanced packing of samples into rows, and of rows onto ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import InputError


@dataclass(frozen=True)
class PackedRows(Sequence[np.ndarray]):
    """The samples of each row, int64.

    Attributes:
        samples: the samples of all rows, one row after the other, int64 [samples].
        starts: where each row begins in `samples`, and where the last one ends, int64 [rows + 1].
    """

    samples: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: Any) -> Any:
        return self.samples[self.starts[row] : self.starts[row + 1]]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum over each row's samples of a value that every sample has, int64 [rows]; 0 for an empty row."""
        until = np.concatenate([[0], np.cumsum(values[self.samples])])
        sums: np.ndarray = until[self.starts[1:]] - until[self.starts[:-1]]
        return sums


def pack_rows(lengths: Sequence[int] | np.ndarray, seq_len: int, world_size: int) -> PackedRows:
    """Distributes samples over the smallest multiple of `world_size` rows such that every row fits in `seq_len`.

    Puts the longest sample first into the emptiest row: rows get nearly equal lengths, so that ranks do equal work and
    padding is small. Deterministic. With few samples rows can be empty.

    Raises:
        InputError: a sample is longer than `seq_len`.
    """
    sizes = np.asarray(lengths, np.int64)
    if not len(sizes):
        return PackedRows(sizes, np.zeros(1, np.int64))
    if sizes.max() > seq_len:
        raise InputError(f"a sample of {sizes.max()} tokens does not fit into seq_len {seq_len}; raise seq_len")
    longest_first = _stable_order(-sizes)
    rows_at_least = -(-int(sizes.sum()) // seq_len)
    num_rows = -(-rows_at_least // world_size) * world_size
    while True:
        row_of, filled = _balance(sizes[longest_first], num_rows)
        if filled.max() <= seq_len:
            ends = np.cumsum(np.bincount(row_of, minlength=num_rows))
            return PackedRows(longest_first[_stable_order(row_of)], np.concatenate([[0], ends]))
        num_rows += world_size


def deal_rows(costs: Sequence[float] | np.ndarray, world_size: int, size: int) -> list[np.ndarray]:
    """Returns the rows of each rank in each micro-step, `size` rows each (fewer in the last): int64 [ranks, rows].

    Ranks wait for each other in every layer, so a micro-step takes as long as its slowest rank. Therefore rows of
    similar cost are put into the same micro-step.

    Args:
        costs: the cost of each row that `pack_rows` made, in any unit; a multiple of `world_size`.
        world_size: number of ranks.
        size: rows per rank in one micro-step.
    """
    by_cost = np.argsort(-np.asarray(costs), kind="stable")
    blocks = [by_cost[start : start + size * world_size] for start in range(0, len(by_cost), size * world_size)]
    return [block.reshape(world_size, -1) for block in blocks]


def _balance(sizes: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts each of the sizes, which descend, into the row that is emptiest then, or the first of those.

    Many at once: as long as no row that got a sample is emptier than one that got none, the rows take turns in the
    order of how full they are.

    Returns:
        The row of each sample, and how full each row is, int64.
    """
    row_of, filled, done = np.empty(len(sizes), np.int64), np.zeros(num_rows, np.int64), 0
    while done < len(sizes):
        turns = _stable_order(filled)[: len(sizes) - done]
        after = filled[turns] + sizes[done : done + len(turns)]
        emptiest = np.minimum.accumulate(after)[:-1]
        is_turn = filled[turns[1:]] < emptiest
        count = len(turns) if is_turn.all() else 1 + int(is_turn.argmin())
        row_of[done : done + count] = turns[:count]
        filled[turns[:count]] = after[:count]
        done += count
    return row_of, filled


def _stable_order(values: np.ndarray) -> np.ndarray:
    """The order that sorts the values, equal ones as they were. NumPy sorts 16 bits several times as fast as 64."""
    fits = len(values) and values.min() >= -(2**15) and values.max() < 2**15
    return np.argsort(values.astype(np.int16) if fits else values, kind="stable")
