"""The report shows what a run has so far, and two runs can be compared."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import report
from jobs.common.recipes import load_recipe
from pipeline.config import CorpusConfig
from pipeline.errors import InputError, UsageError
from pipeline.reports.comparison import compare_runs, differing_settings, side_by_side
from pipeline.reports.run_report import report_page, write_report
from pipeline.runs.paths import RunPaths
from tests.support.browser import check_page
from tests.support.past_run import RECIPE, copy_past_run


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run whose last stage is unfinished."""
    folder = tmp_path_factory.mktemp("past") / "runs"
    return RunPaths(copy_past_run(folder), load_recipe(str(RECIPE)))


@pytest.mark.slow
def test_a_run_without_scores_and_samples_shows_its_training(past: RunPaths, tmp_path: Path) -> None:
    run = tmp_path / "running"
    shutil.copytree(past.run, run, ignore=shutil.ignore_patterns("metrics.json", "samples"))
    for step in (8, 16):
        file = run / "stage1" / "samples" / f"samples-{step:08d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((120, 240, 3), step, np.uint8)).save(file)
    page = write_report(past.recipe, RunPaths(run, past.recipe)).read_text()
    assert "Loss by task" in page and "Where the time goes" in page and "<h2>Scores" not in page
    assert page.index("step 8") < page.index("step 16"), "samples stand in the order of the steps"
    assert " of 40" in page and "of the training&#x27;s FLOP are done" in page.replace("'", "&#x27;")
    check_page(run / "report.html", "running", num_pictures=7)


def test_a_run_that_has_only_begun_has_a_report_and_one_that_has_not_is_refused(past: RunPaths, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "new", past.recipe)
    with pytest.raises(InputError, match="start the run with jobs/tokenize.py"):
        write_report(past.recipe, paths)
    page = report_page(past.recipe, paths, 5)
    assert "0 of 24" in page and "http-equiv=refresh content=5" in page


@pytest.mark.slow
def test_two_runs_are_compared(past: RunPaths, tmp_path: Path) -> None:
    for name, rate in (("first", 0.003), ("second", 0.004)):
        shutil.copytree(past.run, tmp_path / name)
        for recipe in (tmp_path / name).glob("stage*/recipe.json"):
            recipe.write_text(recipe.read_text().replace('"learning_rate": 0.003', f'"learning_rate": {rate}'))
        (tmp_path / name / "metrics.json").write_text(json.dumps({"fid": rate * 1000, "kind": "held_out"}))
    path = compare_runs(tmp_path, ("first", "second"))
    page = path.read_text()
    assert path == tmp_path / "first" / "compared_with_second.html"
    assert "stages.0.learning_rate" in page and "stages.0.steps" not in page, "what is equal is not a difference"
    assert ">3</td>" in page and ">1.33</td>" in page and "train_stage, device-days" in page
    assert page.count("data:image/png;base64,") == 2
    with pytest.raises(InputError, match="--runs 'third': there is no run"):
        compare_runs(tmp_path, ("first", "third"))


def test_what_one_recipe_alone_has_is_one_row_and_no_row_is_empty() -> None:
    first = load_recipe(str(RECIPE))
    more = {**first.corpora, "lists": CorpusConfig(path="/lists")}
    stages = (*first.stages, replace(first.stages[0], task_shares={"captioning": 1.0}))
    table = differing_settings(first, replace(first, name="other", corpora=more, stages=stages))
    assert table.to_numpy().tolist() == [
        ["corpora.lists", "", "in B alone"],
        [f"stages.{len(first.stages)}", "", "in B alone"],
    ]
    shares = replace(first.stages[0], task_shares={"captioning": 1.0})
    table = differing_settings(first, replace(first, stages=(shares, *first.stages[1:])))
    assert set(table["setting"]) <= {f"stages.0.task_shares.{task}" for task in first.stages[0].task_shares}
    assert all(a or b for a, b in zip(table["A"], table["B"], strict=True))


def test_ratios_are_of_numbers_alone() -> None:
    table = side_by_side({"a": 2, "b": True, "c": "x"}, {"a": 3.0, "b": False, "d": 4})
    assert table["B / A"].tolist() == ["1.5", "", "", ""] and table[""].tolist() == ["a", "b", "c", "d"]
    recipe = load_recipe(str(RECIPE))
    assert not len(differing_settings(recipe, recipe))


@pytest.mark.parametrize("options", [{"runs": ("a",)}, {"runs": ("a", "b"), "watch": True}, {"port": -1}])
def test_flags_that_make_no_sense_together_are_refused(options: dict) -> None:
    with pytest.raises(UsageError):
        report.main(report.Options(recipe=str(RECIPE), **options))
