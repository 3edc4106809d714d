"""A rank's slices of the trained parameters and of AdamW's moments, the same for all ZeRO stages.

ZeRO-3 flattens each trained parameter and cuts it into one piece per rank; ZeRO-2 does so with all parameters together.
A slice is such a piece of one parameter. It is located by its position in the flattened parameter, so any other number
of ranks can put the pieces together again. See `pipeline.runtime.deepspeed_private`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.checkpoints.engine import PartitionedEngine, ZeroOptimizer
from pipeline.runtime.deepspeed_private import (
    adam_state,
    copy_flat_weights_to_model,
    flat_weights,
    own_part,
    whole_shape,
)

KEYS = ("master", "exp_avg", "exp_avg_sq")
"""The float32 weights, and AdamW's first and second moments."""
AVERAGE = "average"
"""The moving average of the float32 weights, where a stage keeps one."""


@dataclass(frozen=True)
class Slice:
    """Elements `start` to `start + count` of one flattened trained parameter.

    Attributes:
        name: the parameter's name in the objective.
        start: the slice's first element in the flattened parameter.
        tensors: float32 [count] by `KEYS`, and by `AVERAGE` if there is one. They share the optimizer's memory: writing
            to them changes its state.
    """

    name: str
    start: int
    tensors: dict[str, Tensor]

    @property
    def count(self) -> int:
        return self.tensors["master"].numel()


def local_slices(engine: PartitionedEngine) -> list[Slice]:
    """This rank's non-empty slices."""
    optimizer = engine.optimizer
    _make_moments(optimizer)
    slices = []
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        part = own_part(optimizer, parameter)
        if part is not None:
            state = adam_state(optimizer, part.flat)
            wholes = {"master": part.flat.data} | {key: state[key] for key in (*KEYS[1:], AVERAGE) if key in state}
            own = {key: whole.narrow(0, part.offset, part.count) for key, whole in wholes.items()}
            slices.append(Slice(name, part.start, own))
    return slices


def trained_shapes(engine: PartitionedEngine) -> dict[str, tuple[int, ...]]:
    """The unpartitioned shapes of the trained parameters, by name."""
    named = engine.module.named_parameters()
    return {name: whole_shape(one) for name, one in named if one.requires_grad}


def optimizer_steps(engine: PartitionedEngine) -> int:
    """Number of updates that AdamW has done."""
    optimizer = engine.optimizer
    _make_moments(optimizer)
    return int(adam_state(optimizer, flat_weights(optimizer)[0])["step"])


@torch.no_grad()
def start_average(engine: PartitionedEngine) -> None:
    """Begins a moving average of the weights at their present values, on this rank's partitions.

    AdamW's own state holds it, so that whatever moves that state moves the average, too.
    """
    optimizer = engine.optimizer
    _make_moments(optimizer)
    for flat in flat_weights(optimizer):
        adam_state(optimizer, flat)[AVERAGE] = flat.data.clone()


@torch.no_grad()
def update_average(engine: PartitionedEngine, decay: float) -> None:
    """Moves the average towards the weights, by 1 - `decay` of the difference."""
    optimizer = engine.optimizer
    for flat in flat_weights(optimizer):
        adam_state(optimizer, flat)[AVERAGE].lerp_(flat.data, 1 - decay)


@torch.no_grad()
def apply_master_weights(engine: PartitionedEngine, optimizer_steps: int) -> None:
    """Copies the slices' `master` tensors into the model, and sets AdamW's number of updates.

    Call it on every rank after the slices were written to.
    """
    optimizer = engine.optimizer
    for flat in flat_weights(optimizer):
        adam_state(optimizer, flat)["step"].fill_(optimizer_steps)
    copy_flat_weights_to_model(optimizer)


def _make_moments(optimizer: ZeroOptimizer) -> None:
    """Creates AdamW's moments as zeros. AdamW does so only in its first step; a resumed run needs them earlier."""
    for flat in flat_weights(optimizer):
        state = adam_state(optimizer, flat)
        if not state:
            # `fused` requires its step count on the parameter's device.
            state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
            state |= {key: torch.zeros_like(flat.data) for key in KEYS[1:]}
