"""Tests that take many minutes: `make test-long`. Nothing else should use the cores meanwhile."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.budget import Plan, plan
from jobs.common.recipes import load_recipe
from pipeline.budget.forecast import forecast
from pipeline.ledger.table import read_ledger
from tests.support.checkout import CHECKOUT
from tests.support.past_ledger import ledger_after

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A newcomer's first run."""
    root = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-P", str(CHECKOUT / "jobs" / "demo.py"), "--root", str(root)]
    subprocess.run(command, cwd=CHECKOUT, check=True)
    return root / "demo"


def test_the_demo_reaches_its_goals(demo: Path) -> None:
    """Pictures from their names, and names from their pictures, within twenty minutes."""
    metrics = json.loads((demo / "metrics.json").read_text())
    assert metrics["corpus_rows"] == 3953 and metrics["trained_drawings"] >= 300
    assert metrics["text_logits_max_abs_diff"] == 0 and metrics["visual_weights_moved"] is True
    assert metrics["text_perplexity"] == metrics["base_text_perplexity"] and metrics["held_out_texts"] > 100
    assert metrics["vq_psnr_db"] >= 21
    for language in ("en", "zh"):
        assert metrics[f"t2i_retrieval_{language}"] >= 0.9, metrics
        assert metrics[f"caption_exact_match_{language}"] >= 0.8, metrics
        assert metrics[f"high_res_retrieval_{language}"] >= 0.9, metrics
    assert metrics["seconds"] <= 1200


def test_the_demos_plan_and_its_forecast_after_a_fifth_meet_what_it_took(demo: Path, tmp_path: Path) -> None:
    """The plan uses the run's measured rates. The result does not depend on what the run learned."""
    ledger = demo / "ledger"
    recipe, table = load_recipe("demo"), read_ledger(ledger).table
    planned = plan(Plan(recipe="demo", benchmark=(str(ledger),)))
    took = table[table["job"].isin(["tokenize", "train_stage"])]["gpu_days"].sum()
    assert planned["gpu_days"] == pytest.approx(took, rel=0.1)
    before = read_ledger(ledger_after(0.2, ledger, tmp_path / "fifth")).table
    trained = table[table["job"].isin(before["job"])]["gpu_days"].sum()
    found = forecast(recipe, before, devices_now=2)
    assert found and found.gpu_days == pytest.approx(trained, rel=0.1), found


@pytest.mark.timeout(2 * 3600)
def test_a_model_composes_subjects_and_skin_tones_that_it_never_saw_together(tmp_path: Path) -> None:
    """An hour on two cores. Guessing gets a sixth."""
    command = [sys.executable, "-P", str(CHECKOUT / "jobs" / "demo.py"), "--recipe", "demo_compose"]
    subprocess.run([*command, "--root", str(tmp_path)], cwd=CHECKOUT, check=True)
    metrics = json.loads((tmp_path / "demo_compose" / "metrics.json").read_text())
    assert metrics["composition_pairs"] == 2 * 194 and metrics["composition_ceiling"] > 0.9
    assert metrics["composition_unseen"] >= 0.65, metrics
    assert metrics["text_perplexity"] == metrics["base_text_perplexity"]


def test_the_benchmark_prints_every_figure_as_json() -> None:
    """On one layer: this tests the output, not the speed."""
    sizes = ["--layers", "1", "--rows", "1", "--rounds", "1", "--loop-steps", "3", "--loop-runs", "1"]
    command = [sys.executable, "-P", str(CHECKOUT / "jobs" / "benchmark.py"), "train", "--json", *sizes]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    ratios = {"routed_over_dense", "naive_over_routed", "prefix_speedup", "ray_over_plain"}
    assert {"device", "geometry", "tokens_per_s", "samples_per_s", "step_s", "peak_memory_bytes"} < figures.keys()
    assert figures["padding_fraction"] == 0 and "mfu" in figures
    assert all(0.05 < figures[name] < 20 for name in ratios), figures
