"""A finished stage of which its recipe asks for more says so, and goes on only if nothing else has changed."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoints.manifest import newest_complete, write_manifest
from pipeline.config.recipe import Recipe
from pipeline.config.stage import StageConfig
from pipeline.errors import InputError
from pipeline.launch.extension import announce_extension, check_extension, ended_before, is_done
from pipeline.launch.stage import check_unchanged
from pipeline.runs.paths import RunPaths
from pipeline.runs.stage_recipe import RECIPE_FILE
from tests.support import checkpoints
from tests.support.stage_runs import bare_stage_run
from tokenization.files.storage import open_storage

FIRST = StageConfig("first", steps=6, warmup_steps=0, learning_rate=1e-3, final_learning_rate=1e-5)


def paths_of(folder: Path, **change: Any) -> RunPaths:
    return RunPaths(folder, Recipe("small", stages=(replace(FIRST, **change), FIRST)))


@pytest.fixture
def finished(tmp_path: Path) -> RunPaths:
    """A run whose first stage ended after six steps."""
    paths = paths_of(tmp_path)
    checkpoints.make(paths.checkpoints(1), 6, finished=True)
    (paths.stage(1) / RECIPE_FILE).write_text(json.dumps(asdict(paths.recipe)))
    return paths


def test_a_stage_that_did_all_its_steps_is_done(finished: RunPaths) -> None:
    assert is_done(finished, 1, extend=False) and is_done(finished, 1, extend=True)
    assert is_done(paths_of(finished.run, steps=4), 1, extend=False)
    assert not is_done(finished, 2, extend=False), "it has not begun"
    assert ended_before(finished, 1) == 0


def test_more_steps_than_a_finished_stage_did_are_told_with_what_to_do(finished: RunPaths) -> None:
    more = paths_of(finished.run, steps=9)
    message = "finished after 6 steps, and the recipe asks for 9; add --extend .* set stages.0.steps=6 .* --root"
    with pytest.raises(InputError, match=message):
        is_done(more, 1, extend=False)
    assert not is_done(more, 1, extend=True)
    assert ended_before(more, 1) == 6


def test_a_stage_that_another_has_started_from_is_not_extended(finished: RunPaths) -> None:
    later = checkpoints.make(finished.checkpoints(2), 1)
    (begun,) = (each for each in [newest_complete(finished.checkpoints(2))] if each)
    end = newest_complete(finished.checkpoints(1))
    manifest = replace(begun.manifest, initial_sha256=end.manifest.sha256())
    write_manifest(open_storage(finished.checkpoints(2)), later, manifest)
    with pytest.raises(InputError, match="stage 2 has started from it"):
        is_done(paths_of(finished.run, steps=9), 1, extend=True)


def test_only_steps_may_have_grown(finished: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    check_unchanged(bare_stage_run(paths_of(finished.run, steps=9), "more", extends_sha256="r"), finished)
    other = paths_of(finished.run, steps=9, global_batch_size=8, micro_batch_size=2)
    with pytest.raises(InputError, match=r"cannot go on from .*: global_batch_size changed besides the steps; undo"):
        check_unchanged(bare_stage_run(other, "more", extends_sha256="another"), finished)
    with pytest.raises(InputError, match="the seed, options of the model, zero, or the tokens changed"):
        check_unchanged(bare_stage_run(paths_of(finished.run, steps=9), "more", extends_sha256="another"), finished)


def test_the_jump_of_the_learning_rate_is_told(finished: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    announce_extension(bare_stage_run(finished, "r", extends_sha256=""))
    assert not capsys.readouterr().err
    announce_extension(bare_stage_run(paths_of(finished.run, steps=12), "more", extends_sha256="r"))
    said = capsys.readouterr().err
    assert "from step 6 to 12; the learning rate goes from 7.63e-05 to 0.000505" in said, said


def test_an_extension_that_has_begun_needs_no_more_checks(finished: RunPaths) -> None:
    checkpoints.make(finished.checkpoints(1), 8)
    more = paths_of(finished.run, steps=9)
    assert not is_done(more, 1, extend=False) and ended_before(more, 1) == 6
    newest = newest_complete(finished.checkpoints(1))
    assert newest
    check_extension(bare_stage_run(more, "r", extends_sha256="of six steps"), newest)
