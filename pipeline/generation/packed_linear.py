"""Linear layers whose weights are packed once into the layout of a CPU's matrix products.

A decoding step multiplies few rows by large weights, many times. By default every call packs the weights again, which
for 4 rows takes longer than the multiplication. oneDNN can pack them once; `torch.compile` uses the same two operations
for frozen weights.
"""

from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from pipeline.runtime.torch_private import mkldnn_has_bfloat16, packed_linear, packed_weight, with_children

M = TypeVar("M", bound=nn.Module)

USUAL_ROWS = 16
"""Number of rows that the layout is optimized for. Other numbers work, too."""


def can_pack(weight: Tensor) -> bool:
    """True if weights like this one can be packed here: on a CPU with oneDNN, in float32 or, if supported, bfloat16."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return mkldnn_has_bfloat16()
    return weight.dtype == torch.float32


class PackedLinear(nn.Module):
    """`x @ weight.T + bias`, without gradient. It holds a copy of the weights, which does not follow later changes."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self._weight = packed_weight(weight, USUAL_ROWS)
        self._bias = None if bias is None else bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return packed_linear(rows, self._weight, self._bias)


def packed(module: M) -> M:
    """Returns a copy of the module with every linear layer packed; everything else is shared with the original."""
    if isinstance(module, nn.Linear):
        return cast(M, PackedLinear(module.weight, module.bias))
    return with_children(module, {name: packed(child) for name, child in module.named_children()})
