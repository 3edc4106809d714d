"""FlexAttention, compiled.

Shape letters: B rows, Tq queries, Tk keys, H query heads, G key and value heads, d head size.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention


def flex(queries: Tensor, keys: Tensor, values: Tensor, mask: BlockMask, scale: float) -> Tensor:
    """FlexAttention: [B, H, Tq, d] queries on [B, G, Tk, d] keys and values to [B, Tq, H, d].

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
