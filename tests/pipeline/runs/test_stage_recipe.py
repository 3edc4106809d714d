"""A stage's recipe names the places in its run wherever the run lies."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.config import CorpusConfig, Recipe
from pipeline.runs.stage_recipe import RECIPE_FILE, read_stage_recipe, write_stage_recipe


def recipe_in(run: Path) -> Recipe:
    (run / "vq").mkdir(parents=True)
    corpora = {"main": CorpusConfig(path="/data/corpus", tokens="s3://bucket/tokens")}
    return Recipe(name="demo", corpora=corpora, vqgan_folder=str(run / "vq"), stages=())


def test_a_path_in_the_run_moves_with_it_and_others_stay(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path / "old" / "demo")
    write_stage_recipe(tmp_path / "old" / "demo" / "stage1", recipe)
    assert read_stage_recipe(tmp_path / "old" / "demo" / "stage1") == recipe
    shutil.move(tmp_path / "old", tmp_path / "new")
    moved = read_stage_recipe(tmp_path / "new" / "demo" / "stage1")
    assert moved == replace(recipe, vqgan_folder=str(tmp_path / "new" / "demo" / "vq"))


def test_an_absolute_path_of_earlier_code_is_found_after_the_run_has_moved(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path / "old" / "demo")
    stage = tmp_path / "old" / "demo" / "stage1"
    stage.mkdir()
    (stage / RECIPE_FILE).write_text(json.dumps(asdict(recipe)))
    assert read_stage_recipe(stage) == recipe
    shutil.move(tmp_path / "old", tmp_path / "new")
    moved = read_stage_recipe(tmp_path / "new" / "demo" / "stage1")
    assert moved == replace(recipe, vqgan_folder=str(tmp_path / "new" / "demo" / "vq"))
