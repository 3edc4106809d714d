"""A stage whose checkpoints are not where the recipe says does not begin anew without a word."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.config.recipe import Recipe
from pipeline.config.stage import StageConfig
from pipeline.errors import InputError
from pipeline.launch.stage import check_unchanged
from pipeline.runs.paths import RunPaths
from pipeline.runs.stage_recipe import write_stage_recipe
from pipeline.step_figures import METRICS_FILE, StepFigures
from tests.support import checkpoints
from tests.support.stage_runs import bare_stage_run

STAGE = StageConfig("first", steps=100, save_every_steps=10)


def paths_of(run: Path, checkpoint_folder: Path | None) -> RunPaths:
    return RunPaths(run, Recipe("small", stages=(STAGE,), checkpoint_folder=str(checkpoint_folder or "")))


def begin(paths: RunPaths, done: int) -> None:
    """Leaves what a stage leaves that was killed after some steps."""
    paths.stage(1).mkdir(parents=True)
    write_stage_recipe(paths.stage(1), paths.recipe)
    lines = [json.dumps(StepFigures(step).to_json()) + "\n" for step in range(1, done + 1)]
    (paths.stage(1) / METRICS_FILE).write_text("".join(lines))
    if done >= STAGE.save_every_steps:
        checkpoints.make(paths.checkpoints(1), 10)


def check(paths: RunPaths) -> None:
    check_unchanged(bare_stage_run(paths), paths)


def test_checkpoints_that_were_moved_are_asked_for(tmp_path: Path) -> None:
    paths = paths_of(tmp_path / "run", tmp_path / "old")
    begin(paths, 25)
    shutil.move(tmp_path / "old", tmp_path / "new")
    with pytest.raises(InputError, match="would begin anew: .* trained 25 steps; .* with checkpoint_folder"):
        check(paths)
    moved = paths_of(tmp_path / "run", tmp_path / "new")
    with pytest.raises(InputError, match="other stage settings"):  # it is found, and compared
        check(moved)


@pytest.mark.parametrize("elsewhere", ["other", None])
def test_a_changed_folder_of_checkpoints_is_told_with_where_they_are(tmp_path: Path, elsewhere: str | None) -> None:
    paths = paths_of(tmp_path / "run", tmp_path / "old")
    begin(paths, 10)
    changed = paths_of(tmp_path / "run", tmp_path / elsewhere if elsewhere else None)
    with pytest.raises(InputError, match=f"but there are some in '{paths.checkpoints(1)}', where it wrote them before"):
        check(changed)


def test_a_stage_that_came_to_no_checkpoint_begins_anew(tmp_path: Path) -> None:
    outside, inside = paths_of(tmp_path / "a", tmp_path / "kept"), paths_of(tmp_path / "b", None)
    check(outside)
    begin(outside, 9)
    check(outside)
    begin(inside, 40)
    shutil.rmtree(inside.checkpoints(1))
    check(inside)
