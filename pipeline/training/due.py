"""When the things happen that a stage does every so many steps."""

from collections.abc import Collection

from pipeline.checkpoints.manifest import by_step, step_of
from pipeline.step_figures import read_validations
from pipeline.training.stage_run import StageRun

MOST_AWAITED = 3
"""Checkpoints that are kept for a validation beside the training, at most."""


def is_due(every: int, done: int) -> bool:
    """True if something that happens every `every` steps (0: never) happens after step `done`."""
    return every > 0 and done % every == 0


def is_validated(run: StageRun, done: int) -> bool:
    """True if the weights after step `done` are validated."""
    return bool(run.held_out) and (is_due(run.stage.validate_every_steps, done) or done == run.stage.steps)


def is_drawn(run: StageRun, done: int) -> bool:
    """True if samples are drawn from the weights after step `done`."""
    return run.samples is not None and is_due(run.stage.sample_every_steps, done)


def is_validated_or_drawn(run: StageRun, done: int) -> bool:
    """True if the weights after step `done` are validated, or samples are drawn from them."""
    return is_validated(run, done) or is_drawn(run, done)


def is_saved(run: StageRun, done: int) -> bool:
    """True if a checkpoint is due after step `done`: by itself, or because it is validated beside the training."""
    beside = run.async_validation and is_validated_or_drawn(run, done)
    return beside or is_due(run.stage.save_every_steps, done)


def awaiting_validation(run: StageRun, names: Collection[str]) -> list[str]:
    """The checkpoints among `names` that have yet to be validated beside the training: the newest `MOST_AWAITED`."""
    done = {each.checkpoint for each in read_validations(run.output)}
    due = [name for name in names if name not in done and is_validated_or_drawn(run, step_of(name))]
    return sorted(due, key=by_step)[-MOST_AWAITED:]
