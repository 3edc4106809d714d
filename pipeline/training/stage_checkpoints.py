"""The checkpoints of one stage as its loop sees them: where it starts, what it saves, what it goes back to."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

import torch.distributed as dist

from pipeline.checkpoints.manifest import CheckpointManifest, RetentionPolicy, newest_complete
from pipeline.checkpoints.optimizer_slices import optimizer_steps, trained_shapes
from pipeline.checkpoints.resume import Identity, resume, start_from
from pipeline.checkpoints.writer import CheckpointWriter
from pipeline.data.row_index import rows_sha256
from pipeline.runtime.agreement import from_first_rank
from pipeline.step_figures import CheckpointStall
from pipeline.training.engine import Engine
from pipeline.training.stage_run import StageRun
from pipeline.training.step_guard import StepGuard


class StageCheckpoints:
    """One rank's view. Every rank makes one, before it reads any checkpoint, and calls its methods alike.

    Args:
        engine: DeepSpeed's.
        run: the stage.
        base_hash: of the language expert that is loaded.
        guard: what a checkpoint keeps of it, and gives back.
        log: on the first rank, gets lines for whoever runs the job.

    Raises:
        InputError: another attempt owns the checkpoints, or not all ranks see the same folder.
    """

    def __init__(
        self, engine: Engine, run: StageRun, base_hash: str, guard: StepGuard, log: Callable[[str], None]
    ) -> None:
        self._engine, self._run, self._guard, self._log = engine, run, guard, log
        initial = run.initial_checkpoint.manifest.sha256() if run.initial_checkpoint else ""
        self._identity = Identity(run.recipe_sha256, base_hash, rows_sha256(run.sources), initial)
        # Only looking must not take the checkpoints from a run that trains.
        kept = RetentionPolicy(run.stage.keep_checkpoints, run.stage.keep_every_steps)
        self._writer = None if run.verify_only else CheckpointWriter(run.checkpoints, kept, log)
        self._saved_at = time.monotonic()
        self._stall: CheckpointStall | None = None
        self._started_step = 0
        self.counted_step = 0
        """Steps up to the newest checkpoint that is known to count."""

    def start(self) -> CheckpointManifest | None:
        """Goes on from the newest checkpoint that verifies, or else starts from the stage before's.

        Returns:
            What the stage's own checkpoint says of itself; None where the stage begins.

        Raises:
            InputError: see `pipeline.checkpoints.resume`.
        """
        has_begun = from_first_rank(dist.get_rank() == 0 and newest_complete(self._run.checkpoints) is not None)
        if not has_begun and self._run.initial_checkpoint:
            start_from(self._engine, self._run.initial_checkpoint, self._identity.base_sha256)
        newest = self._resumed()
        if newest:
            self._guard.load(newest.guard)
        self._saved_at = time.monotonic()
        return newest

    def go_back(self, done: int) -> CheckpointManifest | None:
        """Puts weights and moments back to the newest checkpoint of at most `done` steps; None where there is none."""
        assert self._writer
        self.wait()
        return self._resumed(at_most_step=done)

    def save(self, done: int, finished: bool, may_remove: bool = True) -> None:
        """Begins a checkpoint after `done` steps.

        Args:
            done: steps of the stage.
            finished: the stage is.
            may_remove: older ones go as the stage's settings say. Among steps that are not learned from they had
                better stay: these weights may be what is wrong.
        """
        assert self._writer
        started = time.monotonic()
        self.wait()  # for the checkpoint before
        self._writer.save(self._engine, self._manifest(done, finished), may_remove)
        self._started_step = done
        now = time.monotonic()
        stall_s = now - started
        self._stall = CheckpointStall(stall_s, share=stall_s / (now - self._saved_at))
        self._saved_at = now

    def wait(self) -> bool:
        """Waits for the checkpoint that is being written, if any, and says whether it counts."""
        assert self._writer
        counts = self._writer.wait()
        if counts:
            self.counted_step = self._started_step
        return counts

    def take_stall(self) -> CheckpointStall | None:
        """The stall of the checkpoint that was begun since the last call; None where there was none."""
        stall, self._stall = self._stall, None
        return stall

    def _resumed(self, at_most_step: int | None = None) -> CheckpointManifest | None:
        found = resume(self._engine, self._run.checkpoints, self._identity, self._log, at_most_step)
        if self._writer:
            self._writer.mark_damaged(found.damaged)
        if found.manifest and not self._run.initial_checkpoint:
            self._identity = replace(self._identity, initial_sha256=found.manifest.initial_sha256)
        return found.manifest

    def _manifest(self, step: int, finished: bool) -> CheckpointManifest:
        """What is to be said of a checkpoint after `step` steps; its files come later."""
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
