"""Linear layers whose weights are laid out once as a CPU's matrix products want them.

A decoding step multiplies few rows by large weights, again and again. As they come, the products lay the weights out
anew in every call, which for 4 rows takes longer than to multiply them. oneDNN can do it once; `torch.compile` uses the
same two operations where weights are frozen.
"""

from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from pipeline.runtime.torch_private import mkldnn_has_bfloat16, packed_linear, packed_weight, with_children

M = TypeVar("M", bound=nn.Module)

USUAL_ROWS = 16
"""Rows of the products that the layout is chosen for. Others work with it, too."""


def can_pack(weight: Tensor) -> bool:
    """Whether weights like this one can be laid out here: on a CPU with oneDNN, in float32 or, where it has that,
    bfloat16."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return mkldnn_has_bfloat16()
    return weight.dtype == torch.float32


class PackedLinear(nn.Module):
    """`x @ weight.T + bias`, without gradient; a copy of the weights, which later changes do not reach."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self._weight = packed_weight(weight, USUAL_ROWS)
        self._bias = None if bias is None else bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return packed_linear(rows, self._weight, self._bias)


def packed(module: M) -> M:
    """A copy of the module with every linear layer packed; everything else is shared with the original."""
    if isinstance(module, nn.Linear):
        return cast(M, PackedLinear(module.weight, module.bias))
    return with_children(module, {name: packed(child) for name, child in module.named_children()})
