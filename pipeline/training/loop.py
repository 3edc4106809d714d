"""The loop that trains one stage, run by every rank, without Ray."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from pipeline.config.gpus import peak_flop_per_s
from pipeline.config.stage import StageConfig
from pipeline.data.batch_plan import StagePlan, prefetch
from pipeline.errors import InputError, NonFiniteError
from pipeline.runtime.extension_lock import await_extension_lock
from pipeline.training.engine import make_engine
from pipeline.training.objective import Objective
from pipeline.training.replica_check import ReplicaCheck, check_same_language_expert
from pipeline.training.samples import draw_samples
from pipeline.training.skipped_steps import SKIPPED_FILE, SkippedSteps
from pipeline.training.stage_checkpoints import StageCheckpoints
from pipeline.training.stage_run import StageRun, make_plan, starting_model
from pipeline.training.step import learning_rate, set_learning_rate, step_figures, train_step
from pipeline.training.step_guard import StepGuard
from pipeline.training.step_verification import try_step, verify_step
from pipeline.training.stop_request import StopRequested, agreed_stop
from pipeline.training.trackers import Trackers
from pipeline.training.validation import validate, validation_sets

Report = Callable[[dict[str, Any]], None]
"""Called on rank 0 after every step with its figures."""
Log = Callable[[str], None]
"""Called on rank 0 with a line for whoever runs the job."""


def train_stage(
    run: StageRun,
    device: torch.device,
    report: Report,
    log: Log,
    stop_requested: StopRequested | None = None,
    heartbeat: Callable[[], object] = lambda: None,
) -> None:
    """Trains the stage to its end, from its newest checkpoint that verifies, where it has one.

    Args:
        run: the stage.
        device: this rank's.
        report, log: see there.
        stop_requested: see there; None where nobody asks.
        heartbeat: called whenever something has been done, at least once a step: see `StepWatchdog`.

    Raises:
        InputError: the last checkpoint could not be written; or see `pipeline.checkpoints.resume`.
        NonFiniteError: see `StepGuard`.
        CorruptionError: see `ReplicaCheck`; where the run only verifies, see `verify_step`.
        StoppedError: see `StopRequest`.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    stage = run.stage

    def log_stage(line: str) -> None:
        log(f"stage {run.stage_number}: {line}")

    heartbeat()
    if device.type == "cpu":
        await_extension_lock(log_stage)
    model, base_hash = starting_model(run, device)
    check_same_language_expert(base_hash)
    plan = make_plan(run, model.config.vocabulary)
    asked = validation_sets(stage, run.stage_number, run.held_out, plan.builder)
    engine = make_engine(Objective(model, stage.normalisation), stage, run.zero)
    replicas = ReplicaCheck(engine)
    guard = StepGuard(stage.spike_factor, stage.roll_back_after, stage.end_after)
    checkpoints = StageCheckpoints(engine, run, base_hash, guard, log_stage)
    taken = checkpoints.start()
    start_step = taken.step if taken else 0
    if run.verify_only:
        next_step = min(start_step, stage.steps - 1)
        set_learning_rate(engine, learning_rate(stage, next_step))
        log_stage(verify_step(engine, plan.step(next_step, rank, world_size), stage, device))
        return
    if taken and taken.finished:
        return

    skipped = SkippedSteps(run.output, log_stage)
    trackers = Trackers(run, start_step, log_stage) if rank == 0 else None
    steps = prefetch(plan, start_step, stage.steps, rank, world_size, pin=device.type == "cuda")
    peak = peak_flop_per_s(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    try:
        for number in range(start_step, stage.steps):
            heartbeat()
            started, done = time.monotonic(), number + 1
            step = next(steps)
            data_wait_s = time.monotonic() - started
            set_learning_rate(engine, learning_rate(stage, number))
            result = train_step(engine, step, stage, guard, device)
            figures = step_figures(engine, step, stage, result, number)
            figures |= {
                "step_s": time.monotonic() - started,
                "data_wait_s": data_wait_s,
                "skipped_steps": guard.skipped,
            }
            stepped = time.monotonic()
            if peak:
                figures["mfu"] = figures["flop"] / (figures["step_s"] * world_size * peak)
            skipped.note(done, step.sample_ids)
            if result.problem:
                log_stage(f"step {done} is skipped: {result.problem}; its samples are in {SKIPPED_FILE}")
                back = checkpoints.go_back(done) if guard.must_roll_back else None
                if guard.must_roll_back and back is None:
                    log_stage("there is no checkpoint to go back to")
                if rank == 0:
                    skipped.write(done, result.problem, kept_step=back.step if back else done - 1)
            if is_due(stage.compare_every_steps, done):
                replicas(step, result.task_losses)
            if is_due(stage.validate_every_steps, done) or done == stage.steps:
                heartbeat()
                figures |= validate(engine, asked, device)
                heartbeat()
            if run.samples and is_due(stage.sample_every_steps, done):
                heartbeat()
                picture = draw_samples(engine, run.samples, rank)
                if trackers and picture is not None:
                    trackers.picture("samples", picture, done)
            figures |= checkpoints.take_stalls() | {"beside_s": time.monotonic() - stepped}
            if trackers:
                report(figures)
                trackers.scalars(figures, done)

            ends, stop = guard.must_end, agreed_stop(stop_requested, device)
            # Among skipped steps the weights are those under suspicion: what a roll back is to find lies before them.
            due = is_due(stage.save_every_steps, done) and not result.problem
            if done < stage.steps and (due or ends or stop):
                checkpoints.save(done, finished=False, remove_old=not result.problem)
                skipped.forget(checkpoints.counted_step)
            if done < stage.steps and ends:
                counts = checkpoints.wait()
                raise _ended_on_skipped_steps(run, done, result.problem, counts)
            if done < stage.steps and stop:
                saved = checkpoints.wait()
                if saved or stop.kind != "resize":  # what has no room now may have it after the next step
                    raise stop.error(saved)
        if start_step < stage.steps and result.problem:
            check_weights(engine, plan, stage, device, guard, heartbeat)
        checkpoints.save(stage.steps, finished=True)
        if not checkpoints.wait():
            checkpoints.save(stage.steps, finished=True)
            if not checkpoints.wait():
                raise InputError(
                    f"the last checkpoint could not be written to {run.checkpoints!r}; make room, and run again"
                )
    finally:
        if trackers:
            trackers.close()


def _ended_on_skipped_steps(run: StageRun, done: int, problem: str, saved: bool) -> NonFiniteError:
    return NonFiniteError(
        f"the last {run.stage.end_after} steps up to {done} were skipped, this one because {problem}; "
        f"{'a checkpoint was written' if saved else 'no checkpoint could be written'}. Look at the samples in "
        f"{str(run.output / SKIPPED_FILE)!r}, and at the learning rate; the same command goes on behind "
        f"{'them' if saved else 'the newest checkpoint'}"
    )


def check_weights(
    engine: Any,
    plan: StagePlan,
    stage: StageConfig,
    device: torch.device,
    judged: StepGuard,
    heartbeat: Callable[[], object],
) -> None:
    """Of a stage whose last steps were skipped: were the samples at fault, or are the weights?

    Tries the samples that would come next, without learning from them, until one of them could be learned from by what
    `judged` knows of usual losses.

    Raises:
        NonFiniteError: none of `end_after` steps could.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    for number in range(stage.steps, stage.steps + stage.end_after):
        heartbeat()
        guard = StepGuard(stage.spike_factor, 0, stage.end_after)
        guard.history.extend(judged.history)
        problem = try_step(engine, plan.step(number, rank, world_size), stage, guard, device).problem
        if not problem:
            return
    raise NonFiniteError(
        f"the stage's last steps were skipped, and none of {stage.end_after} more could be learned from, the last one "
        f"because {problem}: the weights are at fault. The stage is not finished; look at the samples in "
        f"{SKIPPED_FILE} and at the learning rate. The same command goes on from the newest checkpoint; move that away "
        "to go on from the one before"
    )


def is_due(every: int, done: int) -> bool:
    """Whether something that happens every so many steps, 0 for never, happens after `done` of them."""
    return every > 0 and done % every == 0
