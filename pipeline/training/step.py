"""One optimizer step: forward and backward passes, the decision to apply the update, and the step's figures."""

import math
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind, Task
from pipeline.data.batch_plan import Step, loss_share
from pipeline.planning.flops import flop_of
from pipeline.runtime.stopwatch import Stopwatch
from pipeline.step_figures import StepFigures
from pipeline.training.engine import Engine, accumulate
from pipeline.training.step_guard import GRADIENT_PROBLEM, StepGuard

UPDATE = "update"


@dataclass(frozen=True)
class StepResult:
    """The outcome of a step. All fields but `own_losses` and seconds are equal on every rank.

    Attributes:
        task_losses: summed loss of each task over all ranks, float32 [tasks].
        own_losses: the same for this rank alone.
        problem: why the update was not applied; empty if it was.
        forward_s_by_kind: seconds of this rank's forward passes, by the lower-case name of the kind.
        update_s: seconds of this rank's optimizer update.
        seconds: seconds of the whole step on this rank.
    """

    task_losses: torch.Tensor
    own_losses: torch.Tensor
    problem: str
    forward_s_by_kind: dict[str, float]
    update_s: float
    seconds: float


def train_step(engine: Engine, step: Step, stage: StageConfig, guard: StepGuard, device: torch.device) -> StepResult:
    """Runs a step, and applies its update on all ranks, or on none if `guard` rejects it."""
    started, sums, problem = time.perf_counter(), torch.zeros(len(Task), device=device), ""
    watch = engine.module.watch = Stopwatch(device)
    for number, batches in enumerate(step.micro_steps, start=1):
        part = engine([batch.to(device) for batch in batches])
        sums += part.task_losses
        loss, last = part.loss, number == len(step.micro_steps)
        if last:
            own = sums.clone()
            dist.all_reduce(sums)
            total = weighted_loss(sums, step, stage)
            problem = guard.problem(total)
            if problem:
                # Every rank still has to run the backward pass, because the others wait for it. DeepSpeed then finds
                # that the gradient norm is not finite, and applies nothing.
                loss = loss * math.nan
        accumulate(engine, loss, last=last)
        if not last:
            engine.step()
    skipped = engine.skipped_steps
    watch.start()
    engine.step()
    watch.lap(UPDATE)
    if engine.skipped_steps > skipped:
        problem = problem or GRADIENT_PROBLEM
    guard.note(total, problem)
    seconds = watch.seconds()
    update_s = seconds.pop(UPDATE)
    return StepResult(sums, own, problem, seconds, update_s, time.perf_counter() - started)


def weighted_loss(sums: torch.Tensor, step: Step, stage: StageConfig) -> float:
    """Returns the loss that the step minimises: the weighted sum of the mean loss of each task."""
    values = sums.tolist()
    return sum(
        loss_share(stage, task, values[task.value], int(step.label_counts[task.value]))
        for task in Task
        if step.label_counts[task.value]
    )


def step_figures(engine: Engine, step: Step, stage: StageConfig, result: StepResult, number: int) -> StepFigures:
    """Returns the figures of the step alone; the loop adds its own measurements. Every rank calls it.

    Tasks of weight 0 have no loss there: nothing is learned from them, and it would only grow.
    """
    batches = [batch for micro_step in step.micro_steps for batch in micro_step]
    tokens = sum(batch.work.tokens for batch in batches)
    padded = sum(batch.work.padded_tokens for batch in batches)
    config = engine.module.mars.config
    totals = torch.zeros(2 + len(Kind), dtype=torch.float64)
    totals[0], totals[1] = tokens, padded
    for batch in batches:
        totals[2 + batch.kind.value] += flop_of(batch, config, stage.normalisation).total
    totals = totals.to(result.task_losses.device)
    dist.all_reduce(totals)
    flop = dict(zip((kind.name.lower() for kind in Kind), totals[2:].tolist(), strict=True))
    norm = engine.get_global_grad_norm()
    losses = {
        task.name.lower(): result.task_losses[task.value].item() / int(step.label_counts[task.value])
        for task in Task
        if step.label_counts[task.value] and stage.task_weights.get(task.name.lower(), 1.0)
    }
    return StepFigures(
        step=number + 1,
        losses={task: loss for task, loss in losses.items() if math.isfinite(loss)},
        gradient_norm=float(norm) if norm is not None and not result.problem and math.isfinite(norm) else None,
        learning_rate=learning_rate(stage, number),
        samples=step.num_samples,
        tokens=int(totals[0]),
        padding_fraction=1 - totals[0].item() / totals[1].item(),
        flop=sum(flop.values()),
        flop_by_kind={kind: amount for kind, amount in flop.items() if amount},
        update_s=result.update_s,
        forward_s_by_kind=result.forward_s_by_kind,
    )


def learning_rate(stage: StageConfig, step: int) -> float:
    """Linear warmup, then a cosine down to the final rate at the last step."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    done = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    span = stage.learning_rate - stage.final_learning_rate
    return stage.final_learning_rate + span * (1 + math.cos(math.pi * done)) / 2


def ema_decay(stage: StageConfig, step: int) -> float:
    """The decay of the weights' average after a step, from 0: less in the first ones, so that the average soon leaves
    the weights that it began with."""
    return min(stage.ema_decay, (1 + step) / (10 + step))


def set_learning_rate(engine: Engine, value: float) -> None:
    """Sets the rate in every parameter group, multiplied by the group's factor."""
    for group in engine.optimizer.param_groups:
        group["lr"] = value * group["rate_factor"]
