"""What a rank holds of the trained parameters and of AdamW's moments, whatever ZeRO made of them.

ZeRO cuts every trained parameter, flattened, into one piece a rank (stage 3), or all of them together (stage 2). A
slice is such a piece of one parameter: its place in the flattened parameter does not depend on the number of ranks, so
that another number of them can put the pieces together again. Only here and in `pipeline.training.engine` are
DeepSpeed's own structures known.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

KEYS = ("master", "exp_avg", "exp_avg_sq")
"""The float32 weights, and AdamW's first and second moments."""


@dataclass(frozen=True)
class Slice:
    """Elements `start` to `start + count` of one flattened trained parameter.

    Attributes:
        name: the parameter's, in the objective.
        start: of the slice.
        tensors: float32 [count] by `KEYS`. They are the optimizer's own memory: writing to them changes it.
    """

    name: str
    start: int
    tensors: dict[str, Tensor]

    @property
    def count(self) -> int:
        """Elements."""
        return self.tensors["master"].numel()


def local_slices(engine: Any) -> list[Slice]:
    """This rank's slices, the empty ones left out."""
    optimizer = engine.optimizer
    _make_moments(optimizer)
    parts = _stage_3_part if hasattr(optimizer, "fp32_partitioned_groups_flat") else _stage_2_part
    slices = []
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        part = parts(optimizer, parameter)
        if part is not None:
            flat, offset, start, count = part
            state = optimizer.optimizer.state[flat]
            wholes = {"master": flat.data} | {key: state[key] for key in KEYS[1:]}
            slices.append(Slice(name, start, {key: whole.narrow(0, offset, count) for key, whole in wholes.items()}))
    return slices


def trained_shapes(engine: Any) -> dict[str, tuple[int, ...]]:
    """The whole shapes of the trained parameters, by name."""
    named = engine.module.named_parameters()
    return {name: tuple(getattr(one, "ds_shape", one.shape)) for name, one in named if one.requires_grad}


def optimizer_steps(engine: Any) -> int:
    """Updates that AdamW has done."""
    optimizer = engine.optimizer
    _make_moments(optimizer)
    return int(optimizer.optimizer.state[_flats(optimizer)[0]]["step"])


@torch.no_grad()
def apply_master_weights(engine: Any, optimizer_steps: int) -> None:
    """Makes the model follow the slices' `master`, which were written to, and sets the updates that AdamW has done.

    Every rank calls it.
    """
    optimizer = engine.optimizer
    for state in optimizer.optimizer.state.values():
        state["step"].fill_(optimizer_steps)
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.checkpoint_event_prologue()
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()
    else:
        optimizer.update_lp_params()


def _make_moments(optimizer: Any) -> None:
    """AdamW makes them in its first step, as zeros; a resumed run needs them before."""
    for flat in _flats(optimizer):
        state = optimizer.optimizer.state[flat]
        if not state:
            # `fused` wants its count of steps on the parameter's device.
            state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
            state |= {key: torch.zeros_like(flat.data) for key in KEYS[1:]}


def _flats(optimizer: Any) -> list[Tensor]:
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return list(optimizer.fp32_partitioned_groups_flat)
    return list(optimizer.single_partition_of_fp32_groups)


def _stage_3_part(optimizer: Any, parameter: Any) -> tuple[Tensor, int, int, int] | None:
    """The flat tensor, the place in it, and the place in the parameter with the number of elements."""
    group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start = size * dist.get_rank()
    count = min(size, parameter.ds_numel - start)  # the last piece is padded
    return (optimizer.fp32_partitioned_groups_flat[group], offset, start, count) if count > 0 else None


def _stage_2_part(optimizer: Any, parameter: Any) -> tuple[Tensor, int, int, int] | None:
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    place, own = mapping.get_hp_fragment_address(), mapping.lp_fragment_address
    flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    return flat, place.start, own.start, own.numel
