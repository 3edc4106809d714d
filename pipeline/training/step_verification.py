"""Steps that are run and undone: to check that a machine computes the same twice, and to try samples on the weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.checkpoints.optimizer_slices import KEYS, apply_master_weights, local_slices, optimizer_steps
from pipeline.config.stage import StageConfig
from pipeline.data.batch_plan import Step
from pipeline.errors import CorruptionError
from pipeline.runtime.agreement import from_every_rank
from pipeline.training.engine import Engine
from pipeline.training.step import StepResult, train_step
from pipeline.training.step_guard import StepGuard

LOSS_TOLERANCE, MOMENT_TOLERANCE = 1e-3, 1e-2
"""Tolerated differences of losses and of AdamW's first moments, relative to the largest, for kernels that add in any
order, as some on GPUs do. The values are this project's own choice. (Weights are less informative: if moments are
small, only their sign moves the weights.)"""


@dataclass(frozen=True)
class Comparison:
    """A step run twice from the same state. All fields but `seconds` are equal on every rank.

    Attributes:
        is_same: True if losses, gradient norms, weights and moments are the same on all ranks, bit for bit.
        losses, moments: largest difference of losses and of AdamW's first moments, relative to the largest value.
        odd_ranks: ranks whose own losses differ. Gradients are summed over the ranks before they can be compared.
        gradient_norms: the norm over all ranks in both runs, before clipping.
        seconds: seconds of both runs on this rank.
    """

    is_same: bool
    losses: float
    moments: float
    odd_ranks: tuple[int, ...]
    gradient_norms: tuple[float, float]
    seconds: tuple[float, float]

    def within_tolerance(self, device: torch.device) -> bool:
        """True if it is the same, or on a GPU differs by no more than the tolerances."""
        near = self.losses <= LOSS_TOLERANCE and self.moments <= MOMENT_TOLERANCE
        return self.is_same or (device.type == "cuda" and near)

    def __str__(self) -> str:
        if self.is_same:
            return "the same, bit for bit: losses, gradient norm, weights, moments"
        return f"losses by {self.losses:.1e}, AdamW's first moments by {self.moments:.1e}, relative to the largest"

    @property
    def differing_ranks(self) -> str:
        """The ranks that differ, in words."""
        odd = ", ".join(map(str, self.odd_ranks))
        return f"the losses of rank {odd} differ" if odd else "the gradients differ; it is unknown on which rank"


def verify_step(engine: Engine, step: Step, stage: StageConfig, device: torch.device) -> str:
    """Compares a step with itself; see `compare_step`. Every rank calls it.

    Returns:
        A line with the finding.

    Raises:
        CorruptionError: on every rank, if the two differ (on a GPU, by more than the tolerances).
    """
    found = compare_step(engine, step, stage, device)
    if found.is_same:
        return f"a step run twice is {found}"
    if found.within_tolerance(device):
        return f"a step run twice differs no more than kernels do whose order of summation varies ({found})"
    raise CorruptionError(
        f"a step run twice differs ({found}): {found.differing_ranks}. Test the nodes, or leave out the one at fault"
    )


def compare_step(engine: Engine, step: Step, stage: StageConfig, device: torch.device) -> Comparison:
    """Runs a step twice from the same state and compares. Every rank calls it. Weights, moments and the step count are
    restored at the end.

    Raises:
        CorruptionError: on every rank, if losses or gradients are not finite.
    """
    results: list[tuple[StepResult, float, list[Tensor]]] = []
    for _ in range(2):
        after: list[Tensor] = []
        guard = StepGuard(spike_factor=0.0, roll_back_after=0, end_after=1)
        result = try_step(engine, step, stage, guard, device, after)
        if result.problem:
            raise CorruptionError(f"the step cannot be compared: {result.problem}")
        norm = engine.get_global_grad_norm()
        results.append((result, 0.0 if norm is None else float(norm), after))
    (first, first_norm, first_state), (second, second_norm, second_state) = results
    moments = slice(KEYS.index("exp_avg"), None, len(KEYS))
    losses = _difference([first.own_losses], [second.own_losses])
    moved = _difference(first_state[moments], second_state[moments])
    equal_state = all(torch.equal(*pair) for pair in zip(first_state, second_state, strict=True))
    same = losses == 0 and first_norm == second_norm and equal_state
    found = from_every_rank((same, losses, moved))
    return Comparison(
        is_same=all(same for same, _, _ in found),
        losses=max(by for _, by, _ in found),
        moments=max(by for _, _, by in found),
        odd_ranks=tuple(rank for rank, (_, by, _) in enumerate(found) if by),
        gradient_norms=(first_norm, second_norm),
        seconds=(first.seconds, second.seconds),
    )


def try_step(
    engine: Engine,
    step: Step,
    stage: StageConfig,
    guard: StepGuard,
    device: torch.device,
    after: list[Tensor] | None = None,
) -> StepResult:
    """Runs a step and undoes it. Every rank calls it. It keeps copies in host memory: the device holds no more than in
    training.

    Args:
        engine, step, stage, guard, device: see `train_step`.
        after: filled with copies of this rank's weights and moments after the step.
    """
    slices, steps_before = local_slices(engine), optimizer_steps(engine)
    tensors = [each.tensors[key] for each in slices for key in KEYS]
    before = [tensor.to("cpu", copy=True) for tensor in tensors]
    result = train_step(engine, step, stage, guard, device)
    if after is not None:
        after += [tensor.to("cpu", copy=True) for tensor in tensors]
    for tensor, old in zip(tensors, before, strict=True):
        tensor.copy_(old)
    apply_master_weights(engine, steps_before)
    return result


def _difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Largest absolute difference, relative to the largest value."""
    largest = max((float(one.abs().max()) for one in first), default=0.0)
    return max((float((a - b).abs().max()) for a, b in zip(first, second, strict=True)), default=0.0) / (largest or 1.0)
