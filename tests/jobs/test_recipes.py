"""A wrong recipe key, value or flag is refused in one line that says what is right."""

import json
import pickle
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from jobs import generate, train_lm
from jobs.common.recipes import load_recipe
from pipeline.config.sample_limits import seq_len_problem
from pipeline.config.stage import OPERATIONAL, StageConfig
from pipeline.data.row_index import SourceRows
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.errors import InputError, UsageError
from pipeline.launch.stage_inputs import check_high_resolution
from pipeline.runs.paths import run_paths
from pipeline.training.language_expert import TRAINING_FILE
from tests.support.checkout import CHECKOUT
from tests.support.tokens import write_tokens


def test_an_override_reaches_the_value_it_names() -> None:
    recipe = load_recipe("demo", ("stages.0.steps=7", "tokenization.size_px=64", "stages.0.task_weights.opener=0.5"))
    assert recipe.stages[0].steps == 7 and recipe.tokenization.size_px == 64
    assert recipe.stages[0].task_weights["opener"] == 0.5
    assert recipe.stages[1].steps == load_recipe("demo").stages[1].steps


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.stepz=7", "no 'stepz'; the keys here are .*steps"),
        ("nothing=1", "no 'nothing'; the keys here are .*scaling"),
        ("stages.9.steps=7", "is not a position from 0 to 2"),
        ("stages.0.steps=many", "give a value of type int"),
        ("stages.0.steps=1.5", "give a value of type int, not float"),
        ("stages.0.steps", "has no '='"),
        ("stages.0.steps=0", "steps is 0"),
        ("stages.0.task_shares.captioning=0.9", "task_shares sum to"),
        ("stages.0.attention=flash", "must be one of sdpa, eager"),
        ("seed.x=1", "nothing below"),
    ],
)
def test_a_wrong_override_is_refused_with_the_right_ones(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe("demo", (override,))


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no recipe 'demi'.*demo, .*path of a .py file"):
        load_recipe("demi")


OWN_RECIPE = """
from dataclasses import dataclass
from pipeline.config import CorpusConfig, Recipe, StageConfig

@dataclass(frozen=True)
class Sizes:
    steps: int = 7

def recipe():
    return Recipe("mine", {"main": CorpusConfig(path="pictures")}, stages=(StageConfig("first", steps=Sizes().steps),))
"""


def test_a_recipe_can_be_a_file_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "demo.py").write_text(OWN_RECIPE)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("own/demo.py", ("stages.0.global_batch_size=32",))
    assert recipe.name == "mine" and recipe.stages[0].steps == 7 and recipe.stages[0].global_batch_size == 32
    assert recipe == load_recipe(str(tmp_path / "own" / "demo.py"), ("stages.0.global_batch_size=32",))
    assert run_paths(str(tmp_path), recipe).run == tmp_path / "mine"
    assert load_recipe("demo").name == "demo", "a name is the project's own recipe, whatever lies here"


def test_a_process_without_the_recipes_file_can_read_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN_RECIPE)
    recipe = load_recipe(str(file))
    file.unlink()
    (tmp_path / "pickled").write_bytes(pickle.dumps(recipe))
    code = "import pathlib, pickle, sys; print(pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()))"
    command = [sys.executable, "-c", code, str(tmp_path / "pickled")]
    shown = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert shown == f"{recipe}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("x = 1", r"no function recipe\(\)"),
        ("def recipe():\n    return 1 / 0", "raises ZeroDivisionError"),
        ("def recipe(:", "raises SyntaxError"),
        ("import no_such_module", "raises ModuleNotFoundError: No module named 'no_such_module'"),
        ("def recipe():\n    return {}", r"returns a dict; return a pipeline.config.Recipe"),
        ("from pipeline.config import Recipe\ndef recipe():\n    return Recipe('x', corpora={})", "has no corpus"),
    ],
)
def test_a_recipe_file_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=message) as refused:
        load_recipe(str(file))
    assert "\n" not in str(refused.value)


def test_in_rays_package_cache_a_relative_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "_ray_pkg_0123"
    cache.mkdir()
    monkeypatch.chdir(cache)
    recipe = load_recipe("demo")
    for root in ("", "runs"):
        with pytest.raises(UsageError, match="absolute"):
            run_paths(root, recipe)
    assert run_paths(str(tmp_path), recipe).run == tmp_path / "demo"


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file; name a folder"):
        run_paths(str(tmp_path / "file"), load_recipe("demo"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"set": ("evaluation.top_k=-3",)}, "top_k is -3"),
        ({"prompt": ("sun", " ")}, "--prompt is empty"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_starts(
    flags: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        generate.main(generate.Options(root=str(tmp_path), **flags))


def test_a_language_expert_of_other_settings_is_not_taken_for_this_one(tmp_path: Path) -> None:
    folder = run_paths(str(tmp_path), load_recipe("demo")).language_expert
    folder.mkdir(parents=True)
    made_with = asdict(load_recipe("demo").language_expert)
    (folder / TRAINING_FILE).write_text(json.dumps({"config": made_with, "loss": 1.0}))
    train_lm.main(train_lm.Options(root=str(tmp_path)))
    with pytest.raises(UsageError, match="another num_hidden_layers, steps"):
        changed = ("language_expert.steps=7", "language_expert.num_hidden_layers=9")
        train_lm.main(train_lm.Options(root=str(tmp_path), set=changed))


def test_flex_attention_is_refused_where_no_gpu_trains() -> None:
    with pytest.raises(UsageError, match="flex_attention' trains on GPUs only"):
        load_recipe("demo", ("stages.0.attention=flex_attention",))
    load_recipe("mars_7b")


@pytest.mark.parametrize(
    ("high", "changes", "message"),
    [
        (False, {}, "'00000.tar/0000' has no high-resolution codes"),
        (True, {"high_resolution_group": 3}, "high_resolution_group 3 does not divide 16 codes"),
        (True, {}, ""),
    ],
)
def test_high_resolution_that_the_tokens_cannot_give_is_refused(
    tmp_path: Path, high: bool, changes: dict[str, Any], message: str
) -> None:
    paths = run_paths(str(tmp_path), load_recipe("demo"))
    write_tokens(Path(paths.tokens), high=high)
    stage = replace(StageConfig(purpose="detail", high_resolution_group=4), **changes)
    source = SourceRows("drawings", paths.tokens, build_row_index(RowSelection(paths.tokens)))
    if message:
        with pytest.raises((InputError, UsageError), match=message):
            check_high_resolution(3, stage, source)
    else:
        check_high_resolution(3, stage, source)


def test_rows_that_are_too_short_for_a_sample_with_its_high_resolution_are_refused() -> None:
    stage = StageConfig(purpose="detail", seq_len=46)
    assert not seq_len_problem(stage, num_codes=9, num_high_codes=16, max_caption_ids=5)
    problem = seq_len_problem(replace(stage, seq_len=45), num_codes=9, num_high_codes=16, max_caption_ids=5)
    assert "seq_len 45 is too short for a sample, which can have 46 tokens" in problem


def test_a_stage_that_goes_on_may_be_run_watched_and_saved_otherwise_but_not_learn_otherwise() -> None:
    stage = StageConfig(purpose="test")
    known = {one.name for one in fields(StageConfig)}
    assert set(OPERATIONAL) <= known
    for name in known:
        value = getattr(stage, name)
        change: dict[str, Any] = {name: [value, "changed"]}
        changed = replace(stage, **change)
        assert (changed.resume_settings() == stage.resume_settings()) is (name in OPERATIONAL), name
