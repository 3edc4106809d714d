"""Runs one step twice from the same weights and compares: does this machine compute the same twice?"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import CorruptionError
from pipeline.optimizer_slices import adopt, local_slices, optimizer_steps
from pipeline.plan import Step
from pipeline.stage_config import StageConfig
from pipeline.step_guard import StepGuard
from pipeline.train_step import train_step

GPU_TOLERANCE = 1e-3
"""Relative difference of losses that is put down to kernels that add in any order, as some on GPUs do. Ours."""


def verify_step(engine: Any, step: Step, stage: StageConfig, device: torch.device) -> str:
    """Every rank calls it. The weights, the moments and the step count end as they were.

    Returns:
        A line on what was found.

    Raises:
        CorruptionError: on every rank: the two differ, on a GPU by more than `GPU_TOLERANCE`.
    """
    slices, steps_before = local_slices(engine), optimizer_steps(engine)
    before = [tensor.clone() for each in slices for tensor in each.tensors.values()]
    results: list[list[Tensor]] = []
    for _ in range(2):
        guard = StepGuard(spike_factor=0.0, roll_back_after=0, end_after=1)
        result = train_step(engine, step, stage, guard, device)
        if result.problem:
            raise CorruptionError(f"the step cannot be compared: {result.problem}")
        after = [tensor for each in slices for tensor in each.tensors.values()]
        results.append([result.task_losses.clone(), *(tensor.clone() for tensor in after)])
        for tensor, old in zip(after, before, strict=True):
            tensor.copy_(old)
        adopt(engine, steps_before)
    losses = _difference(results[0][0], results[1][0])
    weights = max(_difference(*pair) for pair in zip(results[0][1:], results[1][1:], strict=True))
    same = all(torch.equal(*pair) for pair in zip(*results, strict=True))
    found: list[tuple[bool, float, float]] = [(True, 0.0, 0.0)] * dist.get_world_size()
    dist.all_gather_object(found, (same, losses, weights))
    if all(same for same, _, _ in found):
        return "a step run twice is the same, bit for bit: losses, weights, moments"
    odd = ", ".join(
        f"rank {rank}: losses by {by:.1e}, weights and moments by {much:.1e}"
        for rank, (same, by, much) in enumerate(found)
        if not same
    )
    if device.type == "cuda" and max(by for _, by, _ in found) <= GPU_TOLERANCE:
        return f"a step run twice differs as kernels do that add in any order, relative to the largest ({odd})"
    raise CorruptionError(f"a step run twice differs, relative to the largest value ({odd}): test these ranks' nodes")


def _difference(first: Tensor, second: Tensor) -> float:
    """The largest, relative to the largest value."""
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-30))
