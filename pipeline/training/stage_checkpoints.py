"""The checkpoints of one stage as its loop uses them: start, save, roll back."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

import torch.distributed as dist

from pipeline.checkpoints.manifest import CheckpointManifest, newest_complete
from pipeline.checkpoints.optimizer_slices import optimizer_steps, start_average, trained_shapes
from pipeline.checkpoints.resume import Identity, resume, start_from
from pipeline.checkpoints.retention import RetentionPolicy
from pipeline.checkpoints.writer import CheckpointWriter
from pipeline.data.row_index import rows_sha256
from pipeline.runtime.agreement import from_first_rank
from pipeline.step_figures import CheckpointStall
from pipeline.training.due import awaiting_validation
from pipeline.training.engine import Engine
from pipeline.training.stage_run import StageRun
from pipeline.training.step_guard import StepGuard


class StageCheckpoints:
    """One rank's access to the stage's checkpoints.

    Every rank makes one before it reads any checkpoint, and calls the same methods.

    Args:
        engine: DeepSpeed's engine.
        run: the stage that trains.
        language_expert_hash: hash of the loaded language expert.
        guard: its state is saved in and restored from checkpoints.
        log: called on rank 0 with lines for the operator.

    Raises:
        InputError: another attempt owns the checkpoints, or not all ranks see the same folder.
    """

    def __init__(
        self, engine: Engine, run: StageRun, language_expert_hash: str, guard: StepGuard, log: Callable[[str], None]
    ) -> None:
        self._engine, self._run, self._guard, self._log = engine, run, guard, log
        initial = run.initial_checkpoint.manifest.sha256() if run.initial_checkpoint else ""
        self._identity = Identity(run.recipe_sha256, language_expert_hash, rows_sha256(run.sources), initial)
        # A verification must not take ownership of the checkpoints from a run that trains.
        kept = RetentionPolicy(run.stage.keep_checkpoints, run.stage.keep_every_steps)
        if run.async_validation:
            kept = replace(kept, awaited=partial(awaiting_validation, run))
        self._writer = None if run.verify_only else CheckpointWriter(run.checkpoints, kept, log)
        self._saved_at = time.monotonic()
        self._stall: CheckpointStall | None = None
        self._started_step = 0
        self.counted_step = 0
        """Steps up to the newest checkpoint that is known to count."""

    def start(self) -> CheckpointManifest | None:
        """Resumes from the newest checkpoint that verifies, or else starts from the previous stage's last one.

        Returns:
            The manifest of the stage's own checkpoint, or None if the stage begins.

        Raises:
            InputError: see `pipeline.checkpoints.resume`.
        """
        has_begun = from_first_rank(dist.get_rank() == 0 and newest_complete(self._run.checkpoints) is not None)
        if not has_begun and self._run.initial_checkpoint:
            start_from(self._engine, self._run.initial_checkpoint, self._identity.base_sha256)
        if self._run.stage.ema_decay:
            start_average(self._engine)
        newest = self._resumed()
        if newest:
            self._guard.load(newest.guard)
        self._saved_at = time.monotonic()
        return newest

    def roll_back(self, done: int) -> CheckpointManifest | None:
        """Restores weights and moments from the newest checkpoint of at most `done` steps, or returns None."""
        assert self._writer
        self.wait()
        return self._resumed(at_most_step=done)

    def save(self, done: int, finished: bool, may_remove: bool = True) -> None:
        """Begins a checkpoint after `done` steps.

        Args:
            done: steps of the stage.
            finished: True if the stage is finished.
            may_remove: True if old checkpoints may be removed by the stage's settings. Between skipped steps they
                should stay, because the current weights may be the ones at fault.
        """
        assert self._writer
        started = time.monotonic()
        self.wait()  # the previous checkpoint
        self._writer.save(self._engine, self._manifest(done, finished), may_remove)
        self._started_step = done
        now = time.monotonic()
        stall_s = now - started
        self._stall = CheckpointStall(stall_s, share=stall_s / (now - self._saved_at))
        self._saved_at = now

    def wait(self) -> bool:
        """Waits for the checkpoint that is being written, if any. Returns True if it is complete."""
        assert self._writer
        counts = self._writer.wait()
        if counts:
            self.counted_step = self._started_step
        return counts

    @property
    def problem(self) -> str:
        """Why the last checkpoint could not be written; empty if it was."""
        assert self._writer
        return self._writer.problem

    def take_stall(self) -> CheckpointStall | None:
        """Returns the stall of the checkpoint begun since the last call, or None."""
        stall, self._stall = self._stall, None
        return stall

    def _resumed(self, at_most_step: int | None = None) -> CheckpointManifest | None:
        run = self._run
        found = resume(self._engine, run.checkpoints, self._identity, self._log, at_most_step, run.extends_sha256)
        if self._writer:
            self._writer.mark_damaged(found.damaged)
        if found.manifest and not self._run.initial_checkpoint:
            self._identity = replace(self._identity, initial_sha256=found.manifest.initial_sha256)
        return found.manifest

    def _manifest(self, step: int, finished: bool) -> CheckpointManifest:
        """Returns the manifest of a checkpoint after `step` steps; its file list is added later."""
        return CheckpointManifest(
            step=step,
            optimizer_steps=optimizer_steps(self._engine),
            samples=step * self._run.stage.global_batch_size,
            world_size=dist.get_world_size(),
            finished=finished,
            shapes=trained_shapes(self._engine),
            files={},
            guard=self._guard.state(),
            picture_position_std=self._run.model_options.picture_position_std,
            **asdict(self._identity),
        )
