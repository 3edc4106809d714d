"""Finds the checkpoint that a user names by a run's folder, a stage's folder, or the checkpoint's own path or URL."""

import re
from pathlib import Path

from pipeline.checkpoints.manifest import Checkpoint, finished_checkpoint, newest_complete
from pipeline.errors import InputError
from pipeline.runs.paths import RunPaths
from pipeline.runs.stage_recipe import RECIPE_FILE, read_stage_recipe

STAGE_FOLDER = re.compile(r"stage(\d+)")
STAGE_IN_LOCATION = re.compile(r"(?:^|/)stage(\d+)(?:/|$)")


def find_checkpoint(location: str, paths: RunPaths) -> tuple[RunPaths, int, Checkpoint]:
    """Returns the run with the stage's own recipe, the stage's number, and the checkpoint.

    Args:
        location: a run's folder, for its newest finished checkpoint; a stage's folder; or one checkpoint, finished or
            not; empty for the run of `paths`.
        paths: the run of a checkpoint in a bucket, where no recipe is stored next to it.

    Raises:
        InputError: there is no such checkpoint, or no run around it.
    """
    location = location.rstrip("/")
    if "://" in location:
        checkpoint = finished_checkpoint(location, allow_unfinished=True)
        return paths, _number_in(location, str(checkpoint)), checkpoint
    folder = Path(location).absolute() if location else paths.run
    stage_folder = next((each for each in (folder, *folder.parents) if _is_trained_stage(each)), None)
    if stage_folder:
        paths, number = _run_of(stage_folder)
        where = paths.checkpoints(number) if folder == stage_folder else folder
        return paths, number, finished_checkpoint(where, allow_unfinished=True)
    trained = [each for each in folder.glob("stage*") if _is_trained_stage(each)]
    if not trained:
        raise InputError(
            f"{str(folder)!r} has no stage that was trained; name a run's folder, a stage's, or a checkpoint"
        )
    for each in sorted(trained, key=lambda each: _number_in(each.name), reverse=True):
        paths, number = _run_of(each)
        found = newest_complete(paths.checkpoints(number))
        if found and found.manifest.finished:
            return paths, number, found
    raise InputError(f"run {str(folder)!r} has no finished stage; name one of its checkpoints to export that")


def _run_of(stage_folder: Path) -> tuple[RunPaths, int]:
    return RunPaths(stage_folder.parent, read_stage_recipe(stage_folder)), _number_in(stage_folder.name)


def _is_trained_stage(folder: Path) -> bool:
    return STAGE_FOLDER.fullmatch(folder.name) is not None and (folder / RECIPE_FILE).exists()


def _number_in(*locations: str) -> int:
    for location in locations:
        if found := STAGE_IN_LOCATION.findall(location):
            return int(found[-1])
    raise InputError(f"{locations[0]!r} does not say which stage it is of; keep checkpoints under stage1, stage2, ...")
