"""Attention masks of packed batches, in the form that each attention function takes, and FlexAttention itself.

Shape letters: B rows, Tq queries, Tk keys, H query heads, G key and value heads, d head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

PADDING_SAMPLE = -1
"""The sample number of padding. Padding attends to padding, so every query has a key."""


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


def attention_mask(queries: PackedPositions, keys: PackedPositions, attention: str, dtype: torch.dtype) -> Any:
    """Builds the mask: a query sees the keys of its own sample whose group is not later than its own.

    Build it once per batch: all layers share it.

    Args:
        queries: places of [B, Tq] queries.
        keys: places of [B, Tk] keys.
        attention: one of `ATTENTIONS`.
        dtype: dtype of the hidden states.

    Returns:
        bool [B, 1, Tq, Tk] for `sdpa`; the same as 0 and the dtype's lowest number for `eager`, which adds its mask
        to the scores; a `BlockMask` for `flex_attention`, which skips blocks of 128 by 128 that hold no pair.
    """
    if attention == "flex_attention":

        def sees(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = queries.samples[row, query] == keys.samples[row, key]
            return same & (keys.groups[row, key] <= queries.groups[row, query])

        (batch_size, num_queries), num_keys = queries.samples.shape, keys.samples.shape[1]
        return create_block_mask(sees, batch_size, None, num_queries, num_keys, device=queries.samples.device)
    same = queries.samples[:, :, None] == keys.samples[:, None, :]
    visible = (same & (keys.groups[:, None, :] <= queries.groups[:, :, None]))[:, None]
    if attention == "eager":
        return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    return visible


def flex(queries: Tensor, keys: Tensor, values: Tensor, mask: BlockMask, scale: float) -> Tensor:
    """FlexAttention, compiled: [B, H, Tq, d] queries on [B, G, Tk, d] keys and values to [B, Tq, H, d].

    transformers' function of this name repeats keys and values where the number of heads is no power of two. torch's
    kernel needs that for no number of heads: a query head reads the keys of its group.
    """
    attend: Any = flex_attention if torch.compiler.is_compiling() else _compiled_flex_attention()
    grouped = queries.shape[1] != keys.shape[1]
    attended: Tensor = attend(queries, keys, values, block_mask=mask, scale=scale, enable_gqa=grouped)
    return attended.transpose(1, 2)


@cache
def _compiled_flex_attention() -> Callable[..., Any]:
    return torch.compile(flex_attention)
