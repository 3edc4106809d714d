"""Every part of the benchmark for a GPU runs in its small form on a CPU, and a part that fails does not end the
others."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pipeline.benchmarks.gpu.run as run
from jobs.common.recipes import load_recipe
from pipeline.benchmarks.gpu.kernels import covered
from pipeline.benchmarks.gpu.parts import CUDA_ONLY, PARTS, Part
from pipeline.benchmarks.gpu.recorder import Recorder, results_of
from pipeline.benchmarks.gpu.summary import summary
from pipeline.benchmarks.gpu.varied_attention import visible_lengths
from pipeline.config.benchmarks import GpuSettings
from pipeline.config.tasks import Kind
from pipeline.data.collate import collate
from pipeline.errors import UsageError
from pipeline.model.mars import MarsForCausalLM
from tests.support.checkout import CHECKOUT
from tests.support.forkserver import forkserver
from tests.support.gpu_parts import crash, hang
from tests.support.objective import WEIGHTS
from tests.support.small_models import builder_of, small_config


@pytest.fixture(scope="module")
def without_ray(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """The figures of the job where Ray cannot be imported, and its file."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "ray").mkdir()
    (folder / "ray" / "__init__.py").write_text("raise ImportError('the benchmark must not need Ray')")
    path = os.pathsep.join((str(folder), str(CHECKOUT)))
    words = ["jobs/benchmark.py", "gpu", "--minutes", "4", "--json", "--results", str(folder / "figures.jsonl")]
    done = subprocess.run(
        [sys.executable, "-P", *words],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "the benchmark must not need Ray" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder / "figures.jsonl"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the small form is a CPU's")
def test_every_part_has_figures_on_a_cpu_or_says_what_needs_cuda(without_ray: tuple[dict, Path]) -> None:
    figures, path = without_ray
    assert list(figures["parts"]) == [part.name for part in PARTS]
    assert {name: part["errors"] for name, part in figures["parts"].items() if part["errors"]} == {}
    assert all(part["figures"] and part["seconds"] > 0 for part in figures["parts"].values())
    assert figures["parts"] == results_of(path, figures["run"]), "the object has what the lines have"
    of = {name: part["figures"] for name, part in figures["parts"].items()}
    for name in ("step", "step_plain", "step_zero_2", "step_zero_2_kept"):
        assert of[name]["step_s"] > 0 and of[name]["flop_per_step"] > 0, name
        assert of[name]["mfu"] == of[name]["idle_share"] == of[name]["peak_memory_bytes"] == CUDA_ONLY
    assert of["step"]["flop_per_step"] == of["step_plain"]["flop_per_step"], "all variants do the same work"
    assert of["step"]["beside_loader_over_alone"] > 0
    assert 0 < of["baselines"]["routed_over_dense"] < 20 and 0 < of["baselines"]["naive_over_routed"] < 20
    for kind in ("text_to_image", "captioning", "high_resolution"):
        assert of["attention"][f"{kind}_states_difference"] < 1e-4
    assert of["attention"]["sdpa_s"] > 0 and of["attention"]["varlen_attn_s"] == CUDA_ONLY
    assert of["syncs"]["values_to_host"] == 0 and of["syncs"]["engine_waits"] == CUDA_ONLY
    assert of["generation"]["plain_ms_a_code"] > 0 and of["generation"]["cuda_graph_skips"] == CUDA_ONLY
    assert any(name.startswith("ms_of_") and value > 0 for name, value in of["head"].items())
    assert of["encoder"]["eager_32_px_by_2_pictures_per_s"] > 0 and of["encoder"]["mfu"] == CUDA_ONLY
    assert of["training"]["steps_before_stop"] + of["training"]["steps_after_resume"] == 6
    assert of["training"]["steps_before_stop"] == 3 and of["training"]["largest_loss_difference"] < 1e-5
    assert of["copies"]["to_pageable_gb_per_s"] > 0
    assert figures["mfu"] is None and figures["encoder_mfu"] is None
    assert figures["goals"]["mfu"] == "at least 0.5: not measured"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "limit_s", "told"), [(hang, 3.0, "took longer than its 3 s"), (crash, 30.0, "ended with exit code -9")]
)
def test_a_part_that_hangs_or_crashes_is_ended_and_recorded(
    tmp_path: Path, target: Callable[[Recorder], None], limit_s: float, told: str
) -> None:
    recorder = Recorder(tmp_path / "figures.jsonl", "a", "part")
    first = forkserver().Process(target=os.getpid)
    first.start()
    first.join()  # the process that is forked from is ready
    started = time.monotonic()
    run.run_process(forkserver().Process(target=target, args=(recorder,)), recorder, limit_s)
    assert time.monotonic() - started < 10
    (result,) = results_of(recorder.path, "a").values()
    assert told in result["errors"][0]
    assert result["figures"] == ({"before": 1} if target is hang else {}), "what it had measured is lost"


def test_a_part_whose_package_is_missing_is_left_out_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (
        Part("step", 1, "step.measure_recipe", ("no_such_package",)),
        Part("copies", 1, "copies.measure", ("nor",)),
    )
    monkeypatch.setattr(run, "PARTS", parts)
    monkeypatch.setattr(run, "_set_up_environment", lambda: None)
    settings = GpuSettings(results=str(tmp_path / "figures.jsonl"))
    figures = run.benchmark_gpu(settings, load_recipe("mars_7b"))
    assert figures["parts"]["step"]["errors"] == ["no_such_package is not installed"]
    assert figures["parts"]["copies"]["errors"] == ["nor is not installed"]
    with pytest.raises(UsageError, match="no such part; the parts are step, copies"):
        run.benchmark_gpu(GpuSettings(parts=("sync",)), load_recipe("mars_7b"))


def test_goals_are_reached_or_missed_by_the_parts_figures() -> None:
    def parts(mfu: float, ratio: float) -> dict:
        return {"step": {"figures": {"mfu": mfu}}, "baselines": {"figures": {"routed_over_dense": ratio}}}

    good, bad = (summary(parts(*values), "a", Path("b"), 1.0)["goals"] for values in ((0.5, 0.92), (0.49, 0.93)))
    assert good["mfu"] == "at least 0.5: reached" and good["routed_over_dense"] == "at most 0.92: reached"
    assert bad["mfu"] == "at least 0.5: missed" and bad["routed_over_dense"] == "at most 0.92: missed"
    assert good["encoder_mfu"].endswith("not measured")


def test_time_in_which_kernels_overlap_counts_once() -> None:
    assert covered([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4
    assert covered([]) == 0


def test_varied_attention_runs_on_the_lengths_of_the_samples() -> None:
    mars = MarsForCausalLM(small_config())
    builder = builder_of(mars)
    rows = [[builder.text_to_image([11] * count, torch.arange(9).numpy()) for count in row] for row in ((3, 5), (2,))]
    rows[0].append(builder.text_to_image([], torch.arange(9).numpy()))
    batch = collate(Kind.TEXT_TO_IMAGE, rows, builder.vocabulary, WEIGHTS, 8)
    queries, keys = visible_lengths(batch)
    assert queries.tolist() == [9, 9, 9, 9, 0, 0]
    assert keys.tolist() == [12, 14, 9, 11, 0, 0]
