"""Which stages a command trains, or validates, is as it was asked for."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.launch import curriculum
from pipeline.runs.paths import RunPaths
from tests.support.requests import base_recipe

FINISHED, UNVALIDATED = {1, 2}, {1}


@pytest.mark.parametrize(("wanted", "numbers"), [("all", [1, 3, 4]), ("", [1, 3]), ("1", [1]), ("2", []), ("4", [4])])
def test_a_finished_stage_is_gone_on_with_if_its_last_checkpoint_is_not_validated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str, numbers: list[int]
) -> None:
    def is_done(paths: RunPaths, number: int, extend: bool) -> bool:
        return number in FINISHED

    def lacks_validation(paths: RunPaths, number: int) -> bool:
        return number in UNVALIDATED

    monkeypatch.setattr(curriculum, "is_done", is_done)
    monkeypatch.setattr(curriculum, "lacks_validation", lacks_validation)
    recipe: Any = base_recipe()
    object.__setattr__(recipe, "stages", recipe.stages[:1] * 4)
    assert curriculum.wanted_stages(wanted, recipe, RunPaths(tmp_path, recipe), extend=False) == numbers
