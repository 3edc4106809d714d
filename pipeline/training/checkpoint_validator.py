"""Validates a stage's checkpoints, and draws its samples from them, in one process that holds the whole model."""

import json
import time
from collections.abc import Callable

import torch

from pipeline.checkpoints.manifest import (
    MANIFEST_FILE,
    Checkpoint,
    by_step,
    folders_of,
    newest_complete,
    open_checkpoint,
    step_of,
)
from pipeline.checkpoints.retention import RetentionPolicy, remove_old
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.export.trained_weights import check_same_shapes
from pipeline.model.loading import load_initial_model
from pipeline.runtime.deepspeed_private import compute_linear_as_zero_3
from pipeline.step_figures import VALIDATION_FILE, Validation, read_validations
from pipeline.training.due import is_drawn, is_validated, is_validated_or_drawn
from pipeline.training.objective import Objective
from pipeline.training.samples import draw_samples_alone
from pipeline.training.stage_run import StageRun, choose_kernels, plan_inputs
from pipeline.training.trackers import Trackers
from pipeline.training.validation import validate_alone, validation_sets
from tokenization.files.atomic_writing import append_whole
from tokenization.files.storage import open_storage

PART = "validation"
"""Name of the trackers' run, beside the stage's."""


class CheckpointValidator:
    """Validates each checkpoint of a stage that is due, once in all attempts at the stage.

    Args:
        run: the stage.
        device: where the model is put.
        world_size: number of ranks whose figures are computed; see `validate_alone`.
        log: called with lines for the operator.

    Raises:
        InputError: the language expert cannot be used.
    """

    def __init__(self, run: StageRun, device: torch.device, world_size: int, log: Callable[[str], None]) -> None:
        self._run, self._device, self._world_size, self._log = run, device, world_size, log
        dtype = getattr(torch, run.zero.dtype)
        model = load_initial_model(run.initial_model, run.codebook_size, dtype, run.model_options)
        choose_kernels(model.to(device), run.stage)
        if run.zero.zero_stage == 3 and run.zero.saving_linear:
            compute_linear_as_zero_3()
        self._objective = Objective(model, run.stage.normalisation)
        builder = plan_inputs(run, model.config.vocabulary).builder
        self._sets = validation_sets(run.stage, run.stage_number, run.held_out, builder)
        before = read_validations(run.output)
        self._done = {each.checkpoint for each in before}
        self._trackers = Trackers(run, max((each.step for each in before), default=0), log, PART)

    def due(self) -> list[str]:
        """The names of the complete checkpoints that are due and not done, oldest first."""
        names = set(open_storage(self._run.checkpoints).names())
        complete = (name for name in folders_of(names) - self._done if f"{name}/{MANIFEST_FILE}" in names)
        return sorted((name for name in complete if is_validated_or_drawn(self._run, step_of(name))), key=by_step)

    def validate(self, name: str) -> None:
        """Measures a checkpoint, draws from it, and writes its line to the stage's `VALIDATION_FILE`.

        Raises:
            InputError: the checkpoint is damaged, or was removed.
            OutageError: the storage does not answer.
            OSError: the line cannot be written.
        """
        started, run, step = time.monotonic(), self._run, step_of(name)
        self._load(open_checkpoint(run.checkpoints, name))
        figures: dict[str, float] = {}
        if is_validated(run, step):
            figures = validate_alone(self._objective, self._sets, self._device, self._world_size)
        if run.samples and is_drawn(run, step):
            picture = draw_samples_alone(self._objective.mars, run.samples, self._device)
            self._trackers.picture("samples", picture, step)
        found = Validation(step, name, figures, time.monotonic() - started)
        append_whole(run.output / VALIDATION_FILE, json.dumps(found.to_json()) + "\n")
        self._done.add(name)
        self._trackers.scalars(found.scalars(), step)
        if figures:
            measured = "  ".join(f"{name} {value:.2f}" for name, value in figures.items())
            self._log(f"stage {run.stage_number}  step {step}  held out: {measured}")

    def leave_out(self, name: str) -> None:
        """Counts a checkpoint as done that cannot be validated."""
        self._done.add(name)

    def close(self) -> None:
        """Closes the trackers, and removes the checkpoints that were kept for this validation alone.

        Call it when the training has ended.
        """
        self._trackers.close()
        url, stage = self._run.checkpoints, self._run.stage
        if newest := newest_complete(url):
            kept = RetentionPolicy(stage.keep_checkpoints, stage.keep_every_steps)
            remove_old(url, newest.name, kept, removable=self._done)

    @torch.no_grad()
    def _load(self, checkpoint: Checkpoint) -> None:
        """Puts the checkpoint's weights into the model."""
        trained = {name: each for name, each in self._objective.named_parameters() if each.requires_grad}
        shapes = {name: tuple(each.shape) for name, each in trained.items()}
        check_same_shapes(shapes, checkpoint.manifest.shapes, checkpoint)
        reader = SliceReader(checkpoint)
        for name, parameter in trained.items():
            parameter.copy_(reader.whole(name))
