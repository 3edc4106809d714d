"""Which positions of packed rows see which others: attention masks, in the form that each attention function takes.

It imports no model: the process that builds samples makes the larger part of a mask. Shape letters: B rows, Tq queries,
Tk keys.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

PADDING_SAMPLE = -1
"""The sample number of padding. Padding attends to padding, so every query has a key."""
BLOCK = 128
"""Queries and keys of a block of FlexAttention, torch's default."""


@dataclass(frozen=True)
class PackedPositions:
    """The places of positions in a row, int64 [B, T] each: the number of the sample (`samples`), and the group of
    next-K-token prediction in that sample (`groups`, see `pipeline.data.sequences`)."""

    samples: Tensor
    groups: Tensor

    def followed_by(self, other: "PackedPositions") -> "PackedPositions":
        """These places, followed by the other's."""
        return PackedPositions(
            torch.cat([self.samples, other.samples], dim=1), torch.cat([self.groups, other.groups], dim=1)
        )


@dataclass(frozen=True)
class MaskBlocks:
    """Which blocks of 128 queries by 128 keys of a mask hold pairs, and which hold nothing else, int32. The attributes
    are torch's of a `BlockMask`; without the mask's function they can be sent to another process."""

    kv_num_blocks: Tensor
    kv_indices: Tensor
    full_kv_num_blocks: Tensor
    full_kv_indices: Tensor
    q_num_blocks: Tensor
    q_indices: Tensor
    full_q_num_blocks: Tensor
    full_q_indices: Tensor


def mask_blocks(queries: PackedPositions, keys: PackedPositions) -> MaskBlocks:
    """Finds the blocks of the mask of [B, Tq] queries and [B, Tk] keys, as torch's `create_block_mask` does.

    That function makes masks of [B, Tq, Tk]. Here each query counts the keys that it sees in each block: as sample and
    group in one number, those lie between the sample's first number and the query's own.
    """
    num_groups = torch.maximum(queries.groups.max(), keys.groups.max()) + 1

    def numbers(places: PackedPositions) -> Tensor:
        return (places.samples - PADDING_SAMPLE) * num_groups + places.groups

    # What fills the last blocks up: a key before all numbers, and a query that sees no key.
    own = _filled_up(numbers(queries), -1)
    first = _filled_up((queries.samples - PADDING_SAMPLE) * num_groups, 0)
    in_blocks = _filled_up(numbers(keys), -1).unflatten(1, (-1, BLOCK)).sort(dim=-1).values  # [B, blocks, BLOCK]
    up_to_own, before_first = (
        torch.searchsorted(in_blocks, each[:, None].expand(-1, in_blocks.shape[1], -1).contiguous(), right=right)
        for each, right in ((own, True), (first, False))
    )
    seen = (up_to_own - before_first).unflatten(-1, (-1, BLOCK))  # [B, key blocks, query blocks, BLOCK]
    full = (seen == BLOCK).all(dim=-1).transpose(1, 2).contiguous()[:, None]
    partial = (seen > 0).any(dim=-1).transpose(1, 2).contiguous()[:, None] & ~full
    made = BlockMask.from_kv_blocks(*_ordered(partial), *_ordered(full))
    return MaskBlocks(**{each.name: getattr(made, each.name) for each in fields(MaskBlocks)})


def _filled_up(values: Tensor, filling: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, -values.shape[1] % BLOCK), value=filling)


def _ordered(marked: Tensor) -> tuple[Tensor, Tensor]:
    """The number of marked blocks in each row of bool [..., N], and all blocks, the marked ones first: int32."""
    order = marked.int().argsort(dim=-1, descending=True, stable=True)
    return marked.sum(dim=-1).int(), order.int()


def attention_mask(
    queries: PackedPositions,
    keys: PackedPositions,
    attention: str,
    dtype: torch.dtype,
    blocks: MaskBlocks | None = None,
) -> Any:
    """Builds the mask: a query sees the keys of its own sample whose group is not later than its own.

    Build it once per batch: all layers share it.

    Args:
        queries: places of [B, Tq] queries.
        keys: places of [B, Tk] keys.
        attention: one of `ATTENTIONS`.
        dtype: dtype of the hidden states.
        blocks: the mask's `mask_blocks`, if they are known; used by `flex_attention` alone.

    Returns:
        bool [B, 1, Tq, Tk] for `sdpa`; the same as 0 and the dtype's lowest number for `eager`, which adds its mask
        to the scores; a `BlockMask` for `flex_attention`, which skips blocks of 128 by 128 that hold no pair.
    """
    if attention == "flex_attention":
        found = blocks or mask_blocks(queries, keys)
        lengths = queries.samples.shape[1], keys.samples.shape[1]
        tensors = {each.name: getattr(found, each.name) for each in fields(found)}
        return BlockMask(seq_lengths=lengths, **tensors, mask_mod=_sees(queries, keys))
    same = queries.samples[:, :, None] == keys.samples[:, None, :]
    visible = (same & (keys.groups[:, None, :] <= queries.groups[:, :, None]))[:, None]
    if attention == "eager":
        return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    return visible


def _sees(queries: PackedPositions, keys: PackedPositions) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask as FlexAttention evaluates it: row, head, query and key to bool."""

    def sees(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = queries.samples[row, query] == keys.samples[row, key]
        return same & (keys.groups[row, key] <= queries.groups[row, query])

    return sees
