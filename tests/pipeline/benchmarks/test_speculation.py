"""The benchmark of speculative decoding compares the same pictures, plain and with drafts."""

from pathlib import Path

import pytest

from jobs.common.recipes import load_recipe
from pipeline.benchmarks import speculation
from pipeline.config.benchmarks import SpeculateSettings
from pipeline.runs.paths import RunPaths
from pipeline.serving.model_source import model_source
from tests.support.past_run import copy_past_run


def test_a_run_is_measured_with_each_number_of_drafts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_past_run(tmp_path / "run")
    recipe = load_recipe(str(run.parent / "recipe.py"))
    # Its last stage is not finished.
    monkeypatch.setattr(speculation, "model_source", lambda _, paths: model_source(str(run / "stage2"), paths))
    settings = SpeculateSettings(batch_size=2, num_drafts=(3,), rounds=2)
    figures = speculation.benchmark_speculation(settings, recipe, RunPaths(run, recipe))
    assert figures["pictures"] == 4 and figures["images_per_s"] > 0
    for name in ("base_speedup", "speedup", "same_pictures"):
        assert figures[name].keys() == {0, 3} and figures[name][0] == 1
    num_codes, num_high, group = 16, 64, recipe.stages[-1].high_resolution_group
    plain, drafted = figures["codes_a_pass"].values()
    assert plain == (num_codes + num_high) / (num_codes + num_high / group) <= drafted
