"""Stages that go on beyond their end, because their recipe asks for more steps than they did."""

from dataclasses import replace

from pipeline.checkpoints.manifest import Checkpoint, complete_checkpoints, newest_complete
from pipeline.errors import InputError
from pipeline.runs.paths import RunPaths
from pipeline.runs.stage_recipe import read_stage_recipe
from pipeline.runtime.terminal import say
from pipeline.training.stage_run import StageRun
from pipeline.training.step import learning_rate


def is_done(paths: RunPaths, number: int, extend: bool) -> bool:
    """True if the stage has its last checkpoint, and the recipe asks for no more steps.

    Args:
        paths: paths of the run, with its recipe.
        number: number of the stage, from 1.
        extend: a finished stage may go on.

    Raises:
        InputError: the recipe asks for more steps than a finished stage did, and `extend` is False or the next stage
            has started from it.
    """
    newest = newest_complete(paths.checkpoints(number))
    if newest is None or not newest.manifest.finished:
        return False
    done, wanted = newest.manifest.step, paths.recipe.stages[number - 1].steps
    if wanted <= done:
        return True
    asked = f"stage {number} is finished after {done:,} steps, and the recipe asks for {wanted:,}"
    if not extend:
        raise InputError(
            f"{asked}; add --extend to go on from its last checkpoint, set stages.{number - 1}.steps={done} to leave "
            "it as it is, or choose another --root to begin anew"
        )
    for later in range(number + 1, len(paths.recipe.stages) + 1):
        begun = newest_complete(paths.checkpoints(later))
        if begun and begun.manifest.initial_sha256 == newest.manifest.sha256():
            raise InputError(
                f"{asked}, but stage {later} has started from it and would not fit any more; set "
                f"stages.{number - 1}.steps={done}, or copy the run without stage {later} to another --root"
            )
    return False


def ended_before(paths: RunPaths, number: int) -> int:
    """Step of the newest finished checkpoint with fewer steps than the recipe's stage has; 0 if there is none."""
    steps = paths.recipe.stages[number - 1].steps
    found = (each.manifest for each in complete_checkpoints(paths.checkpoints(number), []))
    return next((each.step for each in found if each.finished and each.step < steps), 0)


def check_extension(run: StageRun, newest: Checkpoint) -> None:
    """Checks that a stage which goes on beyond its end differs from what it was in its steps alone.

    Raises:
        InputError: something else has changed.
    """
    manifest = newest.manifest
    if not manifest.finished or manifest.step >= run.stage.steps or manifest.recipe_sha256 == run.extends_sha256:
        return
    raise InputError(
        f"stage {run.stage_number} cannot go on from {str(newest)!r}: {_changes(run)} changed besides the steps; undo "
        "that, or choose another --root"
    )


def announce_extension(run: StageRun) -> None:
    """Says what becomes of the learning rate if the stage goes on beyond its end."""
    newest, stage = newest_complete(run.checkpoints), run.stage
    if newest is None or not newest.manifest.finished or newest.manifest.step >= stage.steps:
        return
    step = newest.manifest.step
    before, now = learning_rate(replace(stage, steps=step), step - 1), learning_rate(stage, step)
    say(
        f"stage {run.stage_number}: goes on beyond its end, from step {step:,} to {stage.steps:,}; the learning rate "
        f"goes from {before:.3g} to {now:.3g}, where the schedule of {stage.steps:,} steps is then"
    )


def _changes(run: StageRun) -> str:
    """Names the settings of the stage that changed since its last attempt, as far as its folder tells."""
    try:
        stages = read_stage_recipe(run.output).stages
    except (OSError, ValueError):
        stages = ()
    before = stages[run.stage_number - 1].resume_settings() if len(stages) >= run.stage_number else {}
    now = run.stage.resume_settings()
    changed = [name for name in before | now if name != "steps" and before.get(name) != now.get(name)] if before else []
    return ", ".join(changed) or "the seed, options of the model, zero, or the tokens"
