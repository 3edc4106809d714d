"""A stage's inputs with only what is looked at before any worker starts."""

from pipeline.runs.paths import RunPaths
from pipeline.training.stage_run import StageRun


def bare_stage_run(paths: RunPaths, recipe_sha256: str = "", extends_sha256: str = "") -> StageRun:
    """The first stage of a run."""
    run = object.__new__(StageRun)  # what the workers need besides is not looked at
    values = dict(stage=paths.recipe.stages[0], stage_number=1, checkpoints=paths.checkpoints(1))
    values |= dict(output=paths.stage(1), recipe_sha256=recipe_sha256, extends_sha256=extends_sha256)
    for name, value in values.items():
        object.__setattr__(run, name, value)
    return run
