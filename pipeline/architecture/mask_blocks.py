"""The blocks of FlexAttention's masks, as NumPy arrays: the process that builds samples finds them, without torch.

Shape letters: B rows, Tq queries, Tk keys.
"""

from dataclasses import dataclass

import numpy as np

PADDING_SAMPLE = -1
"""The sample number of padding. Padding attends to padding, so every query has a key."""
BLOCK = 128
"""Queries and keys of a block of FlexAttention, torch's default."""


@dataclass(frozen=True)
class PlaceArrays:
    """The places of positions in a row, int64 [B, T] each: the number of the sample (`samples`), and the group of
    next-K-token prediction in that sample (`groups`, see `pipeline.data.sequences`)."""

    samples: np.ndarray
    groups: np.ndarray

    def followed_by(self, other: "PlaceArrays") -> "PlaceArrays":
        """These places, followed by the other's."""
        return PlaceArrays(
            np.concatenate([self.samples, other.samples], axis=1), np.concatenate([self.groups, other.groups], axis=1)
        )


@dataclass(frozen=True)
class BlockArrays:
    """Which blocks of 128 queries by 128 keys of a mask hold pairs, and which hold nothing else, int32. The attributes
    are those of torch's `BlockMask`."""

    kv_num_blocks: np.ndarray
    kv_indices: np.ndarray
    full_kv_num_blocks: np.ndarray
    full_kv_indices: np.ndarray
    q_num_blocks: np.ndarray
    q_indices: np.ndarray
    full_q_num_blocks: np.ndarray
    full_q_indices: np.ndarray


def block_arrays(queries: PlaceArrays, keys: PlaceArrays) -> BlockArrays:
    """Finds the blocks of the mask of [B, Tq] queries and [B, Tk] keys, as torch's `create_block_mask` does.

    That function makes masks of [B, Tq, Tk]. Here each query counts the keys that it sees in each block: as sample and
    group in one number, those lie between the sample's first number and the query's own.
    """
    num_groups = max(int(queries.groups.max()), int(keys.groups.max())) + 1

    def numbers(places: PlaceArrays) -> np.ndarray:
        found: np.ndarray = (places.samples - PADDING_SAMPLE) * num_groups + places.groups
        return found

    # What fills the last blocks up: a key before all numbers, and a query that sees no key.
    own, of_keys = _filled_up(numbers(queries), -1), _filled_up(numbers(keys), -1)
    in_blocks = np.sort(of_keys.reshape(len(of_keys), -1, BLOCK), axis=-1)  # [B, key blocks, BLOCK]
    places = _filled_up(queries.samples - PADDING_SAMPLE, 0)
    firsts = np.broadcast_to(np.arange(places.max() + 1) * num_groups, (len(places), places.max() + 1))
    before_first = np.take_along_axis(_counted(in_blocks, firsts, "left"), places[:, None], axis=-1)
    seen = _counted(in_blocks, own, "right") - before_first
    seen = seen.reshape(*seen.shape[:2], -1, BLOCK)  # [B, key blocks, query blocks, BLOCK]
    full = (seen == BLOCK).all(axis=-1).transpose(0, 2, 1)[:, None]
    partial = (seen > 0).any(axis=-1).transpose(0, 2, 1)[:, None] & ~full
    of_queries = (_ordered(each.swapaxes(-1, -2)) for each in (partial, full))
    found = [array for pair in (_ordered(partial), _ordered(full), *of_queries) for array in pair]
    return BlockArrays(*found)


def _counted(in_blocks: np.ndarray, bounds: np.ndarray, side: str) -> np.ndarray:
    """How many keys of each block lie before each query's bound, int64 [B, key blocks, Tq]. NumPy searches one sorted
    array, so that all blocks follow each other in numbers of their own."""
    rows, blocks, _ = in_blocks.shape
    place = np.arange(rows * blocks).reshape(rows, blocks, 1)
    stride = max(int(in_blocks.max()), int(bounds.max())) + 2
    found = np.searchsorted((in_blocks + place * stride).ravel(), bounds[:, None] + place * stride, side)  # type: ignore[call-overload]
    counted: np.ndarray = found - place * BLOCK
    return counted


def _filled_up(values: np.ndarray, filling: int) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, -values.shape[1] % BLOCK)), constant_values=filling)


def _ordered(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of marked blocks in each row of bool [..., N], and all blocks, the marked ones first: int32."""
    order = np.argsort(~marked, axis=-1, kind="stable")
    return marked.sum(axis=-1, dtype=np.int32), np.ascontiguousarray(order.astype(np.int32))
