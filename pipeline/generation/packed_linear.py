"""Linear layers whose weights are laid out once as a CPU's matrix products want them.

A decoding step multiplies few rows by large weights, again and again. As they come, the products lay the weights out
anew in every call, which for 4 rows takes longer than to multiply them. oneDNN can do it once; `torch.compile` uses the
same two operations where weights are frozen.
"""

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

USUAL_ROWS = 16
"""Rows of the products that the layout is chosen for. Others work with it, too."""


def can_pack(weight: Tensor) -> bool:
    """Whether weights like this one can be laid out here: on a CPU with oneDNN, in float32 or, where it has that,
    bfloat16."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


class PackedLinear(nn.Module):
    """`x @ weight.T + bias`, without gradient; a copy of the weights, which later changes do not reach."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), USUAL_ROWS)
        self._bias = None if bias is None else bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")


def packed(module: M) -> M:
    """A copy of the module with every linear layer packed; everything else is shared with the original."""
    if isinstance(module, nn.Linear):
        return cast(M, PackedLinear(module.weight, module.bias))
    copied = copy.copy(module)
    copied._modules = {name: None if child is None else packed(child) for name, child in module._modules.items()}
    return copied
