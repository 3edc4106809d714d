"""A dry run shows what a recipe will take, and refuses what cannot work, before anybody pays for a GPU."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from jobs import train_stage
from jobs.common.exit_codes import ExitCode, exit_code_of
from jobs.common.recipes import load_recipe
from pipeline.architecture.geometries import GEOMETRIES
from pipeline.errors import UsageError
from pipeline.planning.flops import count_parameters
from pipeline.planning.recipe_plan import planned_config
from pipeline.reports.dry_run import flatten
from tests.support.checkout import CHECKOUT

RECIPES = sorted(path.stem for path in (CHECKOUT / "jobs/recipes").glob("*.py") if path.name != "__init__.py")


def dry_run(recipe: str, *overrides: str, **flags: Any) -> dict:
    plan = train_stage.main(train_stage.Options(recipe=recipe, set=overrides, dry_run=True, **flags))
    assert plan is not None
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_shipped_recipe_can_work(
    recipe: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no tokens, corpus, weights, root or Ray at hand."""
    monkeypatch.chdir(tmp_path)
    plan = dry_run(recipe, root="/proc/no such place")
    assert not ray.is_initialized() and not any(tmp_path.iterdir())
    assert [stage["stage"] for stage in plan["stages"]] == list(range(1, len(load_recipe(recipe).stages) + 1))
    json.dumps(plan)
    shown = capsys.readouterr().out
    for word in ("Recipe", "grad_accum_steps", "seq_len", "micro_batch_size", "activations", "Work"):
        assert word in shown
    for stage in load_recipe(recipe).stages:
        assert f"{stage.steps * stage.global_batch_size:,}" in shown
    # Of a CPU no peak is stated, so no days are.
    assert (plan["gpu_days"] is None) is (plan["device"] == "CPU")


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (
            "mars_7b",
            ["stages.1.global_batch_size=512"],
            r"stage 2: global_batch_size 512 does not suit 64 ranks: captioning gets 51.2 .* raise it to 640",
        ),
        ("mars_7b", ["stages.2.seq_len=4800"], "stage 3: seq_len 4800 is too short for a sample, which can have 4880"),
        (
            "demo",
            ["plan.documents={}"],
            r"'lists' consists of documents; say .* plan.documents.lists='\(3, 32\)'",
        ),
        ("demo", ["picture_position_std=-0.1"], r"picture_position_std is -0.1, but must be 0 or above"),
        ("demo", ["plan.documents.lists=(3, 0)"], r"plan.documents.lists is \(3, 0\), but must be two whole numbers"),
        ("mars_7b", ["stages.0.seq_len=700"], "stage 1: seq_len 700 is too short .* 784"),
        (
            "mars_7b",
            ["stages.2.high_resolution_group=24"],
            "stage 3: high_resolution_group 24 does not divide the 4096",
        ),
        ("mars_7b", ["tokenization.size_hr_px=0"], "stage 3: task high_resolution has a share, but .*size_hr_px is 0"),
        (
            "mars_7b",
            ["tokenization.size_hr_px=1000"],
            "size_hr_px is 1000, but must be a multiple of the VQ-GAN's factor, 16",
        ),
        (
            "demo",
            ["stages.0.seq_len=5000"],
            "a sample can have 5000 tokens, but the language expert knows 4096 positions",
        ),
        ("mars_7b", ["tokenization.size_hr_px=1536", "stages.2.seq_len=10000"], "knows 8192 positions"),
        ("mars_7b", ["stages.0.task_shares.captioning=0.6"], "stage 1 .* task_shares sum to 1.1"),
        ("mars_7b", ["stages.0.language_shares.en=0.6"], "stage 1 .* language_shares sum to 1.1"),
        ("mars_7b", ["stages.0.task_shares.captioning=-0.5", "stages.0.task_shares.text_to_image=1.5"], "at least 0"),
        ("mars_7b", ["stages.0.guidance_dropout=1.5"], "guidance_dropout is 1.5"),
        (
            "mars_7b",
            ["stages.0.micro_batch_size=64", "stages.0.global_batch_size=131072"],
            "stage 1: needs .* A100-80GB has 80 GB; the most is activations",
        ),
        ("mars_7b", ["scaling.num_workers=1"], "the most is master_and_moments, 78.5 GB"),
        ("mars_7b", ["plan.gpu=A10G"], "stage 1: the whole model takes 28.5 GB .* A10G has 24 GB"),
        ("mars_7b", ["plan.gpu="], "names no model; name one with --gpu: A100-40GB, A100-80GB"),
        ("mars_7b", ["plan.gpu=B300"], "GPU 'B300' is unknown, or its name does not say its memory"),
        ("mars_7b", ["plan.gpu=A100"], "GPU 'A100' is unknown, or its name does not say its memory"),
        ("mars_7b", ["plan.language_expert_geometry="], "'Qwen/Qwen-7B' is not on this machine"),
        ("mars_7b", ["plan.language_expert_geometry=gpt"], "must be one of qwen_7b"),
        ("mars_7b", ["plan.mean_caption_ids=600"], "mean_caption_ids is 600; .* max_caption_ids 512"),
        ("mars_7b", ["plan.budget_gpu_days.1=30"], r"stage 2: is planned at 41\.\d GPU-days .* its budget is 30"),
        ("demo", ["scaling.use_gpu=True"], "names no model"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(recipe: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        dry_run(recipe, *overrides)
    assert exit_code_of(refused.value) is ExitCode.USAGE
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"mfu": 0.0}, "--mfu is 0"),
        ({"mfu": 1.5}, "--mfu is 1.5"),
        ({"gpu": "TPU"}, "GPU 'TPU'"),
        ({"stage": "4"}, "--stage '4'.* has the stages 1 to 3"),
    ],
)
def test_a_wrong_flag_of_a_dry_run_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dry_run("mars_7b", **flags)


def test_flags_of_a_plan_do_not_pass_unseen_where_a_stage_would_be_trained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="add --dry-run"):
        train_stage.main(train_stage.Options(root=str(tmp_path), gpu="A100-80GB"))


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError, match=r"stage 1: seq_len 700.*; stage 3: high_resolution_group 24"):
        dry_run("mars_7b", "stages.0.seq_len=700", "stages.2.high_resolution_group=24")


@pytest.mark.slow
def test_a_global_batch_that_is_no_multiple_of_the_ranks_is_no_problem() -> None:
    """Samples are packed into a multiple of the ranks' rows, whatever their number."""
    plan = dry_run("mars_7b", "stages.0.global_batch_size=2047")
    assert all(kind["rows"] % 64 == 0 for stage in plan["stages"] for kind in stage["kinds"].values())


@pytest.mark.slow
def test_mars_7bs_figures_are_sane() -> None:
    plan = dry_run("mars_7b")
    first, second, third = plan["stages"]
    assert first["kinds"]["text_to_image"]["flop"] == pytest.approx(11e12, rel=0.05)
    assert [round(stage["samples"] / 1e6) for stage in plan["stages"]] == [200, 50, 10]
    assert all(stage["memory_bytes"]["states"] == pytest.approx(18.9e9, rel=0.005) for stage in plan["stages"])
    assert plan["parameters"]["trainable"] == count_parameters(GEOMETRIES["qwen_7b"]).trainable
    assert plan["flop"] == first["flop"] + second["flop"] + third["flop"]
    assert plan["gpu_days"] == pytest.approx(plan["flop"] / (0.5 * 312e12 * 86_400))
    assert plan["gpu_days_beside"]["MARS, its paper"] == 587
    assert sum(stage["budget_gpu_days"] for stage in plan["stages"]) == 587
    assert 100 < plan["gpu_days"] < 587, "at half of the peak the paper's figure has room"
    # Nothing is computed twice but for the backward pass: of half of the layers a third of what is counted, at most.
    assert all(0.1 < stage["recomputed_flop"] / stage["flop"] < 1 / 6 for stage in plan["stages"])


@pytest.mark.slow
def test_the_prediction_reaches_its_goal_names_what_binds_and_covers_other_clusters() -> None:
    plan = dry_run("mars_7b", cluster="cluster/aws_a100.yaml")
    assert plan["predicted_mfu"]["mid"] >= 0.45 and plan["predicted_a100_gpu_days"]["mid"] <= 365
    assert plan["binds"] == "compute"
    found = {(each["gpu"], each["gpus"]) for each in plan["predictions"]}
    assert found >= {(gpu, count) for gpu in ("A100-40GB", "A100-80GB", "H100") for count in (8, 16, 64, 256)}
    assert plan["predictions"][0]["machine"] == "p4de.24xlarge"
    for each in plan["predictions"]:
        assert each["mfu"]["low"] <= each["mfu"]["mid"] <= each["mfu"]["high"]
        assert each["a100_gpu_days"]["low"] <= each["a100_gpu_days"]["high"]
    on_google = dry_run("mars_7b", cluster="cluster/gcp_a100.yaml")
    assert on_google["predictions"][0]["machine"] == "a2-ultragpu-8g"
    assert on_google["predicted_mfu"]["mid"] < plan["predicted_mfu"]["mid"], "100 Gbit/s in place of 400"


def test_gpus_without_a_known_machine_are_planned_but_not_predicted() -> None:
    plan = dry_run("mars_1b", stage="1", gpu="B200")
    assert plan["gpu_days"] and "predicted_mfu" not in plan


@pytest.mark.slow
def test_gpu_and_mfu_change_the_days_and_nothing_else() -> None:
    plan = dry_run("mars_7b", stage="1")
    other = dry_run("mars_7b", stage="1", gpu="H100", mfu=0.25)
    assert other["gpu_days"] == pytest.approx(plan["gpu_days"] * 2 * 312 / 989.5)
    assert other["a100_days"] == pytest.approx(2 * plan["a100_days"])
    assert other["flop"] == plan["flop"] and other["device"] == "H100" and len(other["stages"]) == 1


@pytest.mark.slow
def test_mars_1b_fits_its_node_with_room_and_takes_days_not_weeks() -> None:
    plan = dry_run("mars_1b")
    assert plan["memory_bytes"] == 80e9
    assert all(stage["memory_bytes"]["peak"] < 0.75 * plan["memory_bytes"] for stage in plan["stages"])
    assert plan["gpu_days"] / 8 < 4
    assert 1.3e9 < plan["parameters"]["trainable"] < 1.4e9
    config = planned_config(load_recipe("mars_1b"))
    assert config.tie_word_embeddings and config.num_key_value_heads == 2
    # One table for both ends of the language expert, none of it the visual side's.
    both = count_parameters(config), count_parameters(replace(config, tie_word_embeddings=False))
    assert both[1].total - both[0].total == 151_936 * 1536 and both[1].trainable == both[0].trainable


@pytest.mark.slow
@pytest.mark.parametrize("expert", ["qwen2_0_5b", "qwen3_0_6b"])
@pytest.mark.parametrize("gpu", ["L4", "A10G", "A100-80GB"])
def test_mars_05b_fits_a_gpu_of_24_gb_with_room_and_takes_days(expert: str, gpu: str) -> None:
    plan = dry_run("mars_05b", f"plan.language_expert_geometry={expert}", gpu=gpu)
    assert all(stage["memory_bytes"]["peak"] < 0.75 * 24e9 for stage in plan["stages"])
    assert plan["gpu_days"] < 3.5


def test_what_overrides_changed_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    plan = dry_run("demo", "stages.0.steps=250", "stages.0.task_weights.opener=0.5")
    steps = load_recipe("demo").stages[0].steps
    assert plan["changed"] == {"stages.0.steps": steps, "stages.0.task_weights.opener": 0.0}
    assert plan["values"]["stages.0.steps"] == 250
    marked = [line for line in capsys.readouterr().out.splitlines() if "* " in line]
    assert len(marked) == 2
    assert all(text in marked[1] for text in ("stages.0.steps", "250", str(steps)))


def test_every_value_is_shown_under_the_key_that_sets_it() -> None:
    recipe = load_recipe("demo")
    for key, value in flatten(recipe).items():
        if isinstance(value, str | int | float) and not isinstance(value, bool) and key != "name":
            changed = load_recipe("demo", (f"{key}={value}",))
            assert flatten(changed)[key] == value


def test_a_language_expert_at_hand_must_have_the_geometry_that_is_planned(tmp_path: Path) -> None:
    recipe = replace(load_recipe("mars_7b"), language_expert_folder=str(tmp_path))
    GEOMETRIES["small"].language_expert().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="has hidden_size 512, geometry 'qwen_7b' 4096"):
        planned_config(recipe)
    assert planned_config(replace(recipe, plan=replace(recipe.plan, language_expert_geometry=""))).hidden_size == 512


@pytest.mark.slow
def test_from_the_command_line_the_last_line_is_the_plan_and_a_refusal_ends_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "jobs/train_stage.py", "--recipe", "mars_1b", "--dry-run", "--json"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recipe"] == "mars_1b" and "grad_accum_steps" in done.stderr
    command += ["--gpu", "abacus"]
    refused = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2 and "GPU 'abacus'" in refused.stderr and not refused.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["mars_05b", "mars_1b", "mars_7b"])
def test_the_figures_in_docs_are_the_plans(recipe: str) -> None:
    page = (CHECKOUT / "docs/recipes.md").read_text()
    section = next(part for part in page.split("\n## ") if part.startswith(recipe))
    cells = {row.split("|")[1].strip(): row for row in section.splitlines() if row.startswith("|")}
    plan = dry_run(recipe)
    days = cells["A100 days at an MFU of 0.5"]
    memory = cells["GB a GPU: states, at the fullest moment"]
    assert f"{plan['gpu_days']:.1f}" in days
    if recipe == "mars_7b":
        mfu, a100_days = (plan[key] for key in ("predicted_mfu", "predicted_a100_gpu_days"))
        assert f"{mfu['low']:.2f}, {mfu['mid']:.2f}, {mfu['high']:.2f}" in section
        assert f"{a100_days['low']:.0f}, {a100_days['mid']:.0f}, {a100_days['high']:.0f}" in section
        stated = f"{a100_days['mid']:.0f}, in a range of {a100_days['low']:.0f} to {a100_days['high']:.0f}"
        assert stated in (CHECKOUT / "README.md").read_text()
    for stage, of_days, of_memory in zip(plan["stages"], days.split("|")[2:], memory.split("|")[2:], strict=False):
        assert of_days.strip() == f"{stage['gpu_days']:.1f}"
        planned = stage["memory_bytes"]
        assert of_memory.strip() == f"{planned['states'] / 1e9:.1f}, {planned['peak'] / 1e9:.1f}"
