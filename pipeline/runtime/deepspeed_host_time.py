"""Replaces what takes most of the host's time in DeepSpeed's Python under ZeRO-3. Values are the same bit for bit.

Nothing of it is public; written against DeepSpeed 0.19.8. Tests are in
`tests/pipeline/runtime/test_deepspeed_private.py`. What each part saves is counted by `jobs/benchmark.py count`.
"""

import os
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn

_REPLACED: dict[str, Callable[..., Any]] = {}
"""DeepSpeed's functions that were replaced and are still used."""
_COORDINATOR = "_PartitionedParameterCoordinator"
_RELEASE, _AVAILABLE = f"{_COORDINATOR}__release_param", f"{_COORDINATOR}__n_available_params"
"""Private attributes of DeepSpeed's class that gathers parameters ahead."""
_PARAMETERS: WeakKeyDictionary[nn.Module, dict[bool, tuple[nn.Parameter, ...]]] = WeakKeyDictionary()
NSIGHT_SESSION = "NSYS_PROFILING_SESSION_ID"
"""Nsight Systems sets it for the processes that it profiles."""


def save_host_time() -> None:
    """Replaces functions of DeepSpeed in this process, once. Used before an engine is made."""
    from deepspeed.runtime.zero import parameter_offload, partition_parameters, partitioned_param_coordinator, stage3
    from deepspeed.utils import nvtx

    if _REPLACED:
        return
    handle: Any = partition_parameters.AllGatherCoalescedHandle
    _REPLACED.update(wait=handle.wait, reduce_scatter=stage3.reduce_scatter_coalesced)
    handle.wait, stage3.reduce_scatter_coalesced = _wait, _reduce_scatter
    parameter_offload.iter_params = partitioned_param_coordinator.iter_params = _parameters_of
    coordinator = partitioned_param_coordinator.PartitionedParameterCoordinator
    setattr(coordinator, _RELEASE, _release)
    _REPLACED.update(print=partition_parameters.print_rank_0)
    partition_parameters.print_rank_0 = _print_on_first_rank
    nvtx.enable_nvtx = NSIGHT_SESSION in os.environ


def _parameters_of(module: Any, recurse: bool = False) -> Iterator[nn.Parameter]:
    """A module's parameters, listed once: DeepSpeed asks for them several times in each pass, and for a layer that it
    takes as a whole walks through all modules of the layer each time."""
    listed = _PARAMETERS.setdefault(module, {})
    if recurse not in listed:
        listed[recurse] = tuple(module.parameters(recurse=recurse))
    return chain(listed[recurse], (parameter for _, parameter in module.ds_external_parameters()))


def _release(coordinator: Any, parameter: Any, free_data: bool = True) -> None:
    """Lets go of a gathered parameter. DeepSpeed passes five functions to find that there is nothing to do but to free
    its memory, because its parts are there already."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus, free_param

    if parameter.ds_status != ZeroParamStatus.AVAILABLE or parameter.ds_active_sub_modules:
        return
    own, in_node = parameter.ds_tensor, parameter.ds_secondary_tensor
    is_partitioned = own is not None and own.final_location is None
    if free_data and is_partitioned and (in_node is not None or parameter.ds_zero_param_process_group is None):
        free_param(parameter)
    else:
        parameter.partition(free_data=free_data)
    setattr(coordinator, _AVAILABLE, getattr(coordinator, _AVAILABLE) - parameter.ds_numel)


def _print_on_first_rank(message: str, debug: bool = False, force: bool = False) -> None:
    """Prints nothing, as DeepSpeed does, unless told to; and so asks for the rank only then: a layer has 400 such
    messages."""
    if debug or force:
        _REPLACED["print"](message, debug, force)


def _wait(handle: Any, handle_dependency: bool = True) -> None:
    """Waits for an all-gather of several parameters, and takes each of them out of the gathered tensor, in which each
    rank's parts of all parameters follow each other. By one operator a parameter: DeepSpeed launches one for each part
    that a rank holds, 640 a layer on 64 ranks."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    if handle.complete:  # one handle serves all its parameters, and each of them waits for it
        return
    if handle.quantization:
        _REPLACED["wait"](handle, handle_dependency)
        return
    handle.allgather_handle.wait()
    first = handle.partitions[0]
    by_rank = first.as_strided((handle.world_size, first.numel()), (first.numel(), 1))
    offset = 0
    for parameter in handle.params:
        size = parameter.ds_tensor.ds_numel
        if handle.use_secondary_tensor:
            size *= parameter.ds_secondary_tensor_num_of_groups
        parts = by_rank[:, offset : offset + size].reshape(-1).contiguous()  # parts of one element are a strided view
        parameter.data = parts[: parameter.ds_numel].view(parameter.ds_shape).to(parameter.ds_tensor.dtype)
        parameter.ds_status = ZeroParamStatus.AVAILABLE
        offset += size
    handle.complete = True
    if by_rank.is_cuda and handle_dependency:
        by_rank.record_stream(torch.cuda.current_stream())
    elif by_rank.is_cuda:
        handle.data_buffer.append([by_rank])


def _reduce_scatter(tensors: list[Tensor], group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """Averages tensors over the ranks by one collective, and returns this rank's part of each, flattened. By one copy a
    tensor, where DeepSpeed makes one for each rank."""
    from deepspeed.runtime.comm.coalesced_collectives import _torch_reduce_scatter_fn

    world_size, rank = dist.get_world_size(group), dist.get_rank(group)
    counts = [tensor.numel() for tensor in tensors]
    if (len(tensors) == 1 and counts[0] % world_size == 0) or len({tensor.dtype for tensor in tensors}) > 1:
        kept: list[Tensor] = _REPLACED["reduce_scatter"](tensors, group)
        return kept
    sizes = [-(-count // world_size) for count in counts]
    by_rank = tensors[0].new_empty(world_size, sum(sizes))
    for tensor, count, size, part in zip(tensors, counts, sizes, by_rank.split(sizes, dim=1), strict=True):
        flat, missing = tensor.reshape(-1), size * world_size - count
        padded = nn.functional.pad(flat, (0, missing)) if missing else flat  # padding copies, also by nothing
        part.copy_(padded.view(world_size, size))
    by_rank.div_(world_size)
    _torch_reduce_scatter_fn(by_rank.view(-1), by_rank[rank], group=group)
    own = zip(by_rank[rank].split(sizes), counts, sizes, strict=True)
    return [part[: max(0, min(size, count - rank * size))] for part, count, size in own]


def call_hooks_directly(model: nn.Module) -> None:
    """Lets torch call the autograd functions of ZeRO-3's hooks without looking up their signatures, which takes longer
    than the functions. Used on the module of a new engine, under ZeRO-3."""
    for module in model.modules():
        for function in (getattr(module, "pre_bwd_fn", None), getattr(module, "post_bwd_fn", None)):
            if function is not None:
                function.apply = classmethod(_apply_with_all_arguments)


def _apply_with_all_arguments(function: Any, *args: Any) -> Any:
    """Does what `torch.autograd.Function.apply` does after it has filled in missing arguments, outside of
    `torch.func`."""
    return super(torch.autograd.Function, function).apply(*args)
