"""What is used of DeepSpeed and is not public; written against DeepSpeed 0.19.8. Beside it `deepspeed_host_time.py`
replaces some of it. No other module names any of it.

Each function says what it is used for. `tests/pipeline/runtime/test_deepspeed_private.py` has a test for each name: it
says what broke when DeepSpeed moves one.

DeepSpeed's public functions for a parameter's own part (`deepspeed.utils.safe_get_local_fp32_param` and its relatives)
do less: they work for ZeRO-3 alone, and make AdamW's moments only in its first step.
"""

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

_HOLDER = -1
"""Stands for a module that uses a parameter; the numbers of DeepSpeed's own modules count from 0."""
_COORDINATOR = "_PartitionedParameterCoordinator__"
"""How Python calls the private attributes of DeepSpeed's class that gathers parameters ahead."""
_ORDER = ("trace_mode", "submodule_order", "param_order")
"""Those that have the recorded order of modules."""
SHARED_MEMORY_OP = "deepspeed_shm_comm"
"""Name of the op that DeepSpeed compiles for CPU workers. Used to wait for the op's lock."""


@dataclass(frozen=True)
class OwnPart:
    """Elements `start` to `start + count` of a flattened parameter, which this rank's optimizer updates. They are in
    `flat`, from `offset` on."""

    flat: Tensor
    offset: int
    start: int
    count: int


def import_deepspeed() -> ModuleType:
    """Imports DeepSpeed without MLflow and without TorchInductor. Used by workers, which save two to three seconds of
    CPU when they start.

    DeepSpeed's autotuner imports MLflow where it is installed; a tracker still can. Each engine imports the optimizer
    Muon, which compiles three functions, and so imports TorchInductor. Nothing here uses the autotuner or Muon.
    """
    modules = cast(dict[str, ModuleType | None], sys.modules)
    is_hidden = "mlflow" not in modules
    if is_hidden:
        modules["mlflow"] = None  # importing it fails, as where it is not installed
    try:
        deepspeed = importlib.import_module("deepspeed")
    finally:
        if is_hidden:
            del modules["mlflow"]
    compiler = importlib.import_module("deepspeed.runtime.compiler")
    with patch.object(compiler, "compile", lambda: lambda function: function):
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    return deepspeed


def compute_linear_as_zero_3() -> None:
    """Lets this process compute linear layers with the function that ZeRO-3 puts in torch's place in a worker. Used to
    validate a checkpoint with a worker's rounding: it rounds a product to bfloat16 before it adds the bias."""
    import_deepspeed()
    nn.functional.linear = importlib.import_module("deepspeed.runtime.zero.linear").zero3_linear_wrap


def shared_memory_file(rank: int) -> Path:
    """The file of the shared memory through which CPU ranks of one machine reduce, 69 MB. Used to remove the file,
    which the op never does."""
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    return Path("/dev/shm", f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{rank}")


def partition(parameter: nn.Parameter, first: nn.Parameter | None, config: dict[str, Any]) -> tuple[Tensor, int]:
    """Partitions one parameter by ZeRO-3, as `deepspeed.zero.Init` does for a whole model. Used to load a model that no
    rank ever holds whole.

    Args:
        parameter: the parameter, which keeps no elements itself.
        first: the parameter of the first call; None in that call.
        config: DeepSpeed's config.

    Returns:
        This rank's part, without padding, and its first element in the flattened parameter.
    """
    deepspeed = import_deepspeed()
    partitioned: Any = parameter
    if first is None:
        deepspeed.zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=config)
    else:
        converter: Any = first
        converter.convert_to_zero_parameters(param_list=[parameter])
    part: Tensor = partitioned.ds_tensor
    # A secondary partition was made of what the parameter held before it was loaded, and gathers would prefer it.
    partitioned.ds_secondary_tensor = None
    start = part.numel() * dist.get_rank()
    return part[: max(0, min(part.numel(), partitioned.ds_numel - start))], start


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape of a gathered parameter. Used in checkpoints, whose shapes do not depend on ZeRO."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def held_part(parameter: nn.Parameter) -> Tensor:
    """This rank's partition of a parameter, or the whole parameter if it is not partitioned. Used for checksums of
    frozen weights."""
    part: Tensor | None = getattr(parameter, "ds_tensor", None)
    return parameter if part is None else part


def is_whole(parameter: Any) -> bool:
    """True if every rank holds the whole parameter: ZeRO-3 did not partition it, or keeps it gathered because it is
    small. Used to compare such weights between the ranks."""
    return getattr(parameter, "ds_tensor", None) is None or bool(parameter.ds_persist)


@contextmanager
def own_module_order(engine: Any) -> Iterator[None]:
    """Inside, modules may be called in another order than in training steps. Used around validation and drawing:
    otherwise DeepSpeed forgets the order that it has recorded, and two steps gather without looking ahead. Every rank
    calls it. No gradients inside."""
    offload = getattr(getattr(engine, "optimizer", None), "parameter_offload", None)
    if offload is None:  # ZeRO-2, or no engine
        yield
        return
    coordinator = offload.get_param_coordinator()
    coordinator.reset_step()  # ends what the step before recorded, as the next forward pass would
    kept = {name: getattr(coordinator, _COORDINATOR + name) for name in _ORDER}
    is_complete, invalid = coordinator.is_complete_trace(), type(kept["trace_mode"]).INVALID
    coordinator._clear_trace_structures()
    setattr(coordinator, _COORDINATOR + "trace_mode", invalid)
    try:
        yield
    finally:
        coordinator._clean_inflight_param_registry()
        coordinator._clear_trace_structures()
        for name, value in (kept if is_complete else {"trace_mode": invalid}).items():
            setattr(coordinator, _COORDINATOR + name, value)


@contextmanager
def kept_gathered(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Gathers the parameters that ZeRO-3 partitioned, and keeps them while modules are called inside. Used to draw
    pictures: otherwise each of some hundred codes would gather all weights anew. Every rank calls it. No gradients
    inside.
    """
    deepspeed = import_deepspeed()
    # Small ones, too, which DeepSpeed otherwise keeps: it lets go of them while it records a new order of modules.
    partitioned: list[Any] = [each for each in parameters if getattr(each, "ds_tensor", None) is not None]
    if not partitioned:
        yield
        return
    with deepspeed.zero.GatheredParameters(partitioned):
        for parameter in partitioned:
            parameter.ds_active_sub_modules.add(_HOLDER)
        try:
            yield
        finally:
            for parameter in partitioned:
                parameter.ds_active_sub_modules.discard(_HOLDER)


def flat_weights(optimizer: Any) -> list[Tensor]:
    """The flat float32 tensors that AdamW updates on this rank, one for each parameter group. Used to read and write
    weights and moments without gathering them."""
    if _is_zero_3(optimizer):
        return list(optimizer.fp32_partitioned_groups_flat)
    return list(optimizer.single_partition_of_fp32_groups)


def adam_state(optimizer: Any, flat: Tensor) -> dict[str, Tensor]:
    """AdamW's state of one of `flat_weights`; empty before its first step. Used to save and restore moments."""
    state: dict[str, Tensor] = optimizer.optimizer.state[flat]
    return state


def own_part(optimizer: Any, parameter: nn.Parameter) -> OwnPart | None:
    """Locates this rank's part of a trained parameter; None if the rank has no part. Used to cut checkpoints into
    slices whose places do not depend on the number of ranks."""
    zero_parameter: Any = parameter
    if _is_zero_3(optimizer):
        group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = size * dist.get_rank()
        count = min(size, zero_parameter.ds_numel - start)  # the last part is padded
        return OwnPart(optimizer.fp32_partitioned_groups_flat[group], offset, start, count) if count > 0 else None
    mapping = zero_parameter._hp_mapping
    if mapping is None:
        return None
    place, own = mapping.get_hp_fragment_address(), mapping.lp_fragment_address
    return OwnPart(
        optimizer.single_partition_of_fp32_groups[mapping.param_group_index], place.start, own.start, own.numel
    )


@torch.no_grad()
def copy_flat_weights_to_model(optimizer: Any) -> None:
    """Copies `flat_weights` to the model's weights. Every rank calls it after a write to them. Used to resume, and to
    undo a step."""
    if _is_zero_3(optimizer):
        optimizer.invalidate_secondary_tensor()  # else a node would go on with its copy of the weights before
        optimizer.checkpoint_event_prologue()
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()
    else:
        optimizer.update_lp_params()


def _is_zero_3(optimizer: Any) -> bool:
    return hasattr(optimizer, "fp32_partitioned_groups_flat")
