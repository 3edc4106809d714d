"""Which positions of packed rows see which others: attention masks, in the form that each attention function takes.

Shape letters: B rows, Tq queries, Tk keys.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from pipeline.architecture.mask_blocks import PlaceArrays, block_arrays


@dataclass(frozen=True)
class PackedPositions:
    """`PlaceArrays` as tensors."""

    samples: Tensor
    groups: Tensor

    def followed_by(self, other: "PackedPositions") -> "PackedPositions":
        """These places, followed by the other's."""
        return PackedPositions(
            torch.cat([self.samples, other.samples], dim=1), torch.cat([self.groups, other.groups], dim=1)
        )


@dataclass(frozen=True)
class MaskBlocks:
    """`BlockArrays` as tensors."""

    kv_num_blocks: Tensor
    kv_indices: Tensor
    full_kv_num_blocks: Tensor
    full_kv_indices: Tensor
    q_num_blocks: Tensor
    q_indices: Tensor
    full_q_num_blocks: Tensor
    full_q_indices: Tensor


def mask_blocks(queries: PackedPositions, keys: PackedPositions) -> MaskBlocks:
    """Finds the blocks of the mask of [B, Tq] queries and [B, Tk] keys on the CPU; see `block_arrays`."""
    device = queries.samples.device
    arrays = (PlaceArrays(each.samples.cpu().numpy(), each.groups.cpu().numpy()) for each in (queries, keys))
    found = block_arrays(*arrays)
    return MaskBlocks(**{each.name: torch.from_numpy(getattr(found, each.name)).to(device) for each in fields(found)})


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
