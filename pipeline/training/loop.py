"""The loop that trains one stage, run by every rank, without Ray."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from pipeline.checkpoints.optimizer_slices import update_average
from pipeline.config.gpus import peak_flop_per_s
from pipeline.data.loader import Loader, prefetch
from pipeline.errors import InputError, NonFiniteError
from pipeline.runtime.compiled_ops import await_compilation, set_up_compilation
from pipeline.training.agreed_stop import agreed_stop
from pipeline.training.due import is_drawn, is_due, is_saved, is_validated
from pipeline.training.engine import Engine, make_engine
from pipeline.training.garbage_collection import collected_between_steps
from pipeline.training.objective import Objective
from pipeline.training.replica_check import ReplicaCheck, check_same_language_expert
from pipeline.training.reporting import StageReporter
from pipeline.training.samples import draw_samples
from pipeline.training.shared_feed import share_reading, start_loader
from pipeline.training.skipped_steps import SKIPPED_FILE, SkippedSteps
from pipeline.training.stage_checkpoints import StageCheckpoints
from pipeline.training.stage_run import StageRun, plan_inputs, starting_model
from pipeline.training.start_clock import StartClock
from pipeline.training.step import ema_decay, learning_rate, set_learning_rate, step_figures, train_step
from pipeline.training.step_guard import StepGuard
from pipeline.training.step_verification import try_step, verify_step
from pipeline.training.trackers import Trackers
from pipeline.training.validation import ValidationSet, validate, validation_sets


def train_stage(
    run: StageRun, device: torch.device, reporter: StageReporter, start_clock: StartClock | None = None
) -> None:
    """Trains the stage to its end. Resumes from its newest checkpoint that verifies, if there is one.

    Args:
        run: the stage to train.
        device: this rank's device.
        reporter: this rank's reporter.
        start_clock: measures the start of the attempt; None if that begins here.

    Raises:
        InputError: the last checkpoint could not be written; or see `pipeline.checkpoints.resume`.
        NonFiniteError: see `StepGuard`.
        CorruptionError: see `ReplicaCheck`, and `verify_step` for a run that only verifies.
        StoppedError: see `StopRequest`.
    """
    clock = start_clock or StartClock(time.time())
    training = _set_up(run, device, reporter, clock)
    try:
        newest = training.checkpoints.start()
        clock.lap("checkpoint")
        start_step = newest.step if newest else 0
        if run.verify_only:
            training.verify(min(start_step, run.stage.steps - 1))
        elif not (newest and newest.finished and start_step >= run.stage.steps):
            with collected_between_steps() as collect:
                training.train(start_step, collect)
    finally:
        training.loader.close()


@dataclass(frozen=True)
class StageTraining:
    """One rank's part in the training of a stage. Every rank calls the same methods in the same order."""

    run: StageRun
    device: torch.device
    reporter: StageReporter
    clock: StartClock
    engine: Engine
    loader: Loader
    validation: list[ValidationSet]
    replicas: ReplicaCheck
    guard: StepGuard
    checkpoints: StageCheckpoints
    skipped: SkippedSteps
    rank: int
    world_size: int

    def train(self, start_step: int, after_step: Callable[[int], None]) -> None:
        """Trains from `start_step` to the stage's end. Calls `after_step` with the number of each step that is done."""
        run, stage, engine, device = self.run, self.run.stage, self.engine, self.device
        trackers = Trackers(run, start_step, self.log) if self.rank == 0 else None
        on_gpu = device.type == "cuda"
        steps = prefetch(self.loader.step, start_step, stage.steps, pin=on_gpu)
        peak = peak_flop_per_s(torch.cuda.get_device_name(device)) if on_gpu else None
        problem, drawing_s = "", 0.0
        try:
            for number in range(start_step, stage.steps):
                self.reporter.heartbeat()
                started, done = time.monotonic(), number + 1
                step = next(steps)
                data_wait_s = time.monotonic() - started

                set_learning_rate(engine, learning_rate(stage, number))
                result = train_step(engine, step, stage, self.guard, device)
                problem = result.problem
                if stage.ema_decay and not problem:
                    update_average(engine, ema_decay(stage, number))
                figures = step_figures(engine, step, stage, result, number)
                stepped = time.monotonic()
                step_s = stepped - started

                self.skipped.note(done)
                if problem:
                    self._skip(done, problem)
                if is_due(stage.compare_every_steps, done):
                    self.replicas(step, result.task_losses)
                validation = self._validate(done)

                figures = replace(
                    figures,
                    step_s=step_s,
                    data_wait_s=data_wait_s,
                    skipped_steps=self.guard.skipped,
                    mfu=figures.flop / (step_s * self.world_size * peak) if peak else None,
                    validation=validation,
                    checkpoint=self.checkpoints.take_stall(),
                    between_steps_s=time.monotonic() - stepped + drawing_s,
                    start=self.clock.attempt_start() if number == start_step else None,
                )
                if trackers:
                    self.reporter.post(figures)
                    trackers.scalars(figures.to_json(), done)
                self._save_or_stop(done, problem)
                # After the checkpoint: if drawing fails, the next attempt does not come back to it again and again.
                drawing_s = self._draw_samples(done, trackers) if done < stage.steps else 0.0
                after_step(done)
            if problem:
                self._check_weights()
            self._finish()
            self._draw_samples(stage.steps, trackers)
        finally:
            if trackers:
                trackers.close()

    def verify(self, number: int) -> None:
        """Runs step `number` (from 0) twice and compares the results; see `verify_step`."""
        stage = self.run.stage
        set_learning_rate(self.engine, learning_rate(stage, number))
        step = self.loader.step(number)
        self.log(verify_step(self.engine, step, stage, self.device))

    def log(self, line: str) -> None:
        """Logs a line that names the stage."""
        self.reporter.log(f"stage {self.run.stage_number}: {line}")

    def _skip(self, done: int, problem: str) -> None:
        """Records that step `done` was skipped, and rolls back if the guard asks for it."""
        self.log(f"step {done} is skipped: {problem}; its samples are in {SKIPPED_FILE}")
        back = self.checkpoints.roll_back(done) if self.guard.must_roll_back else None
        if self.guard.must_roll_back and back is None:
            self.log("there is no checkpoint to go back to")
        if self.rank == 0:
            self.skipped.write(done, problem, kept_step=back.step if back else done - 1)

    def _validate(self, done: int) -> dict[str, float]:
        if self.run.async_validation or not is_validated(self.run, done):
            return {}
        self.reporter.heartbeat()
        measured = validate(self.engine, self.validation, self.device)
        self.reporter.heartbeat()
        return measured

    def _draw_samples(self, done: int, trackers: Trackers | None) -> float:
        """Draws sample pictures if they are due after step `done`. Returns the seconds that it took."""
        run = self.run
        if run.async_validation or not run.samples or not is_drawn(run, done):
            return 0.0
        started = time.monotonic()
        self.reporter.heartbeat()
        picture = draw_samples(self.engine, run.samples, self.rank, self.device)
        if trackers and picture is not None:
            trackers.picture("samples", picture, done)
        return time.monotonic() - started

    def _save_or_stop(self, done: int, problem: str) -> None:
        """Saves a checkpoint if one is due, and ends the loop if the guard or a stop request asks for it.

        Raises:
            NonFiniteError: too many steps were skipped in a row.
            StoppedError: a stop was requested.
        """
        stage, checkpoints = self.run.stage, self.checkpoints
        ends, stop = self.guard.must_end, agreed_stop(self.reporter.stop_requested, self.device)
        if done == stage.steps:
            return
        # A skipped step puts the weights in doubt: a checkpoint to roll back to must be older.
        due = is_saved(self.run, done) and not problem
        if due or ends or stop:
            checkpoints.save(done, finished=False, may_remove=not problem)
            self.skipped.forget(checkpoints.counted_step)
        if ends:
            raise _ended_on_skipped_steps(self.run, done, problem, saved=checkpoints.wait())
        if stop:
            saved = checkpoints.wait()
            if saved or stop.kind != "resize":  # without a checkpoint, a resize can wait for the next step
                raise stop.error(saved)

    def _check_weights(self) -> None:
        """Finds out if the samples or the weights are at fault when the last steps of the stage were skipped.

        Tries the next samples without learning from them, until the guard accepts one step.

        Raises:
            NonFiniteError: the guard accepts none of `end_after` steps.
        """
        stage, problem = self.run.stage, ""
        for number in range(stage.steps, stage.steps + stage.end_after):
            self.reporter.heartbeat()
            guard = StepGuard(stage.spike_factor, 0, stage.end_after)
            guard.history.extend(self.guard.history)
            step = self.loader.step(number)
            problem = try_step(self.engine, step, stage, guard, self.device).problem
            if not problem:
                return
        raise NonFiniteError(
            f"the stage's last steps were skipped, and so were {stage.end_after} more, the last one because {problem}: "
            f"the weights are at fault. The stage is not finished; look at the samples in {SKIPPED_FILE} and at the "
            "learning rate. The same command resumes from the newest checkpoint; move that away to resume from the one "
            "before"
        )

    def _finish(self) -> None:
        """Saves the last checkpoint, with one retry.

        Raises:
            InputError: it could not be written.
        """
        for _ in range(2):
            self.checkpoints.save(self.run.stage.steps, finished=True)
            if self.checkpoints.wait():
                return
        raise InputError(
            f"the last checkpoint could not be written to {self.run.checkpoints!r}: {self.checkpoints.problem}; make "
            "room there, and run again"
        )


def _set_up(run: StageRun, device: torch.device, reporter: StageReporter, clock: StartClock) -> StageTraining:
    """Loads and partitions the model, and starts the loader."""
    stage = run.stage

    def log(line: str) -> None:
        reporter.log(f"stage {run.stage_number}: {line}")

    reporter.heartbeat()
    if device.type == "cpu":
        set_up_compilation()
        await_compilation(log)
    model, language_expert_hash = starting_model(run, device)
    check_same_language_expert(language_expert_hash)
    inputs = plan_inputs(run, model.config.vocabulary)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    loader = start_loader(inputs.plan, run.loader_process)  # it starts while the rest is made
    validation = validation_sets(stage, run.stage_number, run.held_out, inputs.builder)
    engine = make_engine(Objective(model, stage.normalisation, stage.z_loss), stage, run.zero)
    guard = StepGuard(stage.spike_factor, stage.roll_back_after, stage.end_after)
    share_reading(loader)
    clock.lap("model")
    return StageTraining(
        run=run,
        device=device,
        reporter=reporter,
        clock=clock,
        engine=engine,
        loader=loader,
        validation=validation,
        replicas=ReplicaCheck(engine),
        guard=guard,
        checkpoints=StageCheckpoints(engine, run, language_expert_hash, guard, log),
        skipped=SkippedSteps(run.output, log, lambda steps: inputs.plan().sample_ids([step - 1 for step in steps])),
        rank=rank,
        world_size=world_size,
    )


def _ended_on_skipped_steps(run: StageRun, done: int, problem: str, saved: bool) -> NonFiniteError:
    return NonFiniteError(
        f"the last {run.stage.end_after} steps up to {done} were skipped, the last one because {problem}; "
        f"{'a checkpoint was written' if saved else 'no checkpoint could be written'}. Look at the samples in "
        f"{str(run.output / SKIPPED_FILE)!r}, and at the learning rate; the same command resumes after "
        f"{'them' if saved else 'the newest checkpoint'}"
    )
