"""Steps that are run and undone: to check that a machine computes the same twice, and to try samples on the weights."""

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


def verify_step(engine: Engine, step: Step, stage: StageConfig, device: torch.device) -> str:
    """Runs a step twice from the same state and compares. Every rank calls it.\n\nWeights, moments and the step count
    are restored at the end.

    Returns:
        A line with the finding.

    Raises:
        CorruptionError: on every rank, if the two differ (on a GPU, by more than the tolerances). It names the ranks
            whose own losses differ; gradients are summed over the ranks before they can be compared.
    """
    results: list[tuple[Tensor, list[Tensor]]] = []
    for _ in range(2):
        after: list[Tensor] = []
        guard = StepGuard(spike_factor=0.0, roll_back_after=0, end_after=1)
        result = try_step(engine, step, stage, guard, device, after)
        if result.problem:
            raise CorruptionError(f"the step cannot be compared: {result.problem}")
        results.append((result.own_losses, after))
    (first_losses, first), (second_losses, second) = results
    moments = slice(KEYS.index("exp_avg"), None, len(KEYS))
    losses = _difference([first_losses], [second_losses])
    moved = _difference(first[moments], second[moments])
    same = losses == 0 and all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    found = from_every_rank((same, losses, moved))
    if all(same for same, _, _ in found):
        return "a step run twice is the same, bit for bit: losses, weights, moments"
    most_losses, most_moved = max(by for _, by, _ in found), max(by for _, _, by in found)
    differs = f"losses by {most_losses:.1e}, AdamW's first moments by {most_moved:.1e}, relative to the largest"
    if device.type == "cuda" and most_losses <= LOSS_TOLERANCE and most_moved <= MOMENT_TOLERANCE:
        return f"a step run twice differs no more than kernels do that add in any order ({differs})"
    odd = [str(rank) for rank, (_, by, _) in enumerate(found) if by]
    whose = f"the losses of rank {', '.join(odd)} differ" if odd else "in the gradients; whose cannot be told"
    raise CorruptionError(f"a step run twice differs ({differs}): {whose}. Test the nodes")


def try_step(
    engine: Engine,
    step: Step,
    stage: StageConfig,
    guard: StepGuard,
    device: torch.device,
    after: list[Tensor] | None = None,
) -> StepResult:
    """Runs a step and undoes it. Every rank calls it.

    Args:
        engine, step, stage, guard, device: see `train_step`.
        after: filled with copies of this rank's weights and moments after the step.
    """
    slices, steps_before = local_slices(engine), optimizer_steps(engine)
    tensors = [tensor for each in slices for tensor in each.tensors.values()]
    before = [tensor.clone() for tensor in tensors]
    result = train_step(engine, step, stage, guard, device)
    if after is not None:
        after += [tensor.clone() for tensor in tensors]
    for tensor, old in zip(tensors, before, strict=True):
        tensor.copy_(old)
    apply_master_weights(engine, steps_before)
    return result


def _difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Largest absolute difference, relative to the largest value."""
    largest = max((float(one.abs().max()) for one in first), default=0.0)
    return max((float((a - b).abs().max()) for a, b in zip(first, second, strict=True)), default=0.0) / (largest or 1.0)
