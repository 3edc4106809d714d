"""Everything of torch that is not public; written against torch 2.13. No other module names any of it.

Each function says what it is used for. `tests/pipeline/runtime/test_torch_private.py` has a test for each name, which
fails if torch moves or removes it.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

M = TypeVar("M", bound=nn.Module)
DispatchMode = TorchDispatchMode
"""Base of contexts that see every operator that is called inside. Used to count collectives."""
GRAPH_LIMIT = 64
"""Kinds, gradients or none, and lengths fixed or varying make about a dozen graphs of attention."""


def mkldnn_has_bfloat16() -> bool:
    """True if oneDNN can pack bfloat16 weights on this CPU. Used before `packed_weight`."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def packed_weight(weight: Tensor, usual_rows: int) -> Tensor:
    """Packs a linear layer's weight [out, in] into oneDNN's layout. Used for decoding on CPUs.

    The public `torch.utils.mkldnn.to_mkldnn` computes the same, but also converts the rows in every call: that takes
    twice as long for 8 rows of 256 by [1024, 256] (59 us against 27 us on an EPYC with AVX512).
    """
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), usual_rows)
    return packed


def packed_linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows [..., in] times a `packed_weight`, plus the bias: [..., out]."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


def with_children(module: M, children: dict[str, nn.Module | None]) -> M:
    """Returns a shallow copy of a module with other children, which shares everything else. Used to replace linear
    layers by packed ones in a copy. Setting attributes, the public way, would also change the original: both share one
    dict of children."""
    copied = copy.copy(module)
    copied._modules = children
    return copied


def mark_static_address(tensor: Tensor) -> None:
    """Tells `torch.compile` that the tensor's address never changes. Used for the decoder's caches: a CUDA graph then
    writes to them in place and does not copy them at every step."""
    torch._dynamo.mark_static_address(tensor)


def extension_folder(op: str) -> Path:
    """The folder in which torch compiles an extension of this name; created if missing. Used to find the lock that a
    killed process leaves there. The public `get_default_build_root` is the parent folder, without the versions."""
    from torch.utils.cpp_extension import _get_build_directory

    return Path(_get_build_directory(op, False))


class Float32Buffers(nn.Module):
    """A module whose buffers `float32_buffers` stay float32 in any dtype conversion; they follow device moves.

    Used for rotary frequencies, which `module.bfloat16()` would round. Overrides `_apply`, which `to`, `bfloat16` and
    similar methods call on every submodule; no public method is called on the submodules of a converted module.
    """

    float32_buffers: tuple[str, ...] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        exact = {name: self.get_buffer(name).float() for name in self.float32_buffers}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            if buffer.device.type != "meta":
                setattr(self, name, buffer.to(self.get_buffer(name).device))
        return self


def fail_on_too_many_graphs() -> None:
    """Lets torch.compile make `GRAPH_LIMIT` graphs of a function, and raise an error at one more, in all threads. Used
    in training and in its validation: beyond its own limit of 8, torch silently goes on uncompiled, and FlexAttention
    then stores all scores. On a GPU, autograd recomputes layers in a thread of its own; torch keeps what is set for the
    setting thread alone, but for its defaults."""
    import torch._dynamo.config as config

    entries: dict[str, Any] = vars(config)["_config"]
    for name, value in (("recompile_limit", GRAPH_LIMIT), ("fail_on_recompile_limit_hit", True)):
        entries[name].default = value
        setattr(config, name, value)


def join_fake_group(world_size: int) -> None:
    """Makes this process rank 0 of a group whose collectives return at once and move nothing. Used to count what a
    step does on many ranks."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)


def process_group_of(arguments: tuple[Any, ...]) -> torch.distributed.ProcessGroup:
    """The group among the arguments of a c10d operator. Used to tell groups inside a node from those between nodes."""
    group = next(each for each in arguments if isinstance(each, torch.ScriptObject))
    return torch.distributed.ProcessGroup.unbox(group)


def storage_key(storage: torch.UntypedStorage) -> int:
    """A number that tensors on the same storage share, on any device. Used to count the memory of tensors on the meta
    device, where addresses are all 0."""
    return int(storage._cdata)


def tensors_in(arguments: Any) -> list[Tensor]:
    """The tensors in nested lists of an operator's arguments. Used to add up their bytes."""
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]


def graphs_made() -> int:
    """The number of graphs that `torch.compile` has made in this process. Used to see what varied lengths cost."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def cuda_graph_skips() -> int:
    """The number of compiled functions of this process that were not recorded as CUDA graphs although they should have
    been, of which torch only warns. Used by the benchmark of generation."""
    from torch._dynamo.utils import counters

    return counters["inductor"]["cudagraph_skips"]
