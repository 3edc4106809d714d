"""The recipe that is written fits the corpus and the machine, and its file says the same as the recipe."""

from pathlib import Path

import numpy as np
import pytest

from jobs.common.recipes import load_recipe
from pipeline.config import Recipe
from pipeline.errors import UsageError
from pipeline.own_corpus.captions import CaptionColumn
from pipeline.own_corpus.choices import CaptionIds, Wishes, choose_recipe, hours_of
from pipeline.own_corpus.held_out import HeldOut
from pipeline.own_corpus.machine import Machine
from pipeline.own_corpus.recipe_file import recipe_source
from pipeline.own_corpus.survey import Look, Survey
from pipeline.planning.recipe_plan import RecipePlan
from tokenization.config.sources import CorpusSource
from tokenization.corpora.samples import Sample

HELD_OUT = HeldOut("sample_id.str.contains('(?:07|57)[.][A-Za-z0-9]+$')", 0.02)
PROMPTS = ('a "quoted" prompt with a \\ in it', "山")
MACHINES = {
    "two cores": Machine(2),
    "64 cores": Machine(64),
    "L4": Machine(8, 1, "L4"),
    "A100 of 80 GB": Machine(16, 1, "NVIDIA A100-SXM4-80GB"),
    "8 H100": Machine(192, 8, "H100"),
}


def survey(rows: int = 3000, side_px: int = 600) -> Survey:
    pixels = np.zeros((8, 8, 3), np.uint8)
    captions = {"caption": "a cup", "name": "一个杯子"}
    looks = tuple(Look(side_px, side_px, pixels, Sample(str(row), None, captions)) for row in range(9))
    columns = (CaptionColumn("caption", "en", 1.0, 0.0), CaptionColumn("name", "zh", 1.0, 0.0))
    return Survey(CorpusSource("/data/cups", "files"), 3, rows, True, (), looks, {"bad picture": 1}, columns, ())


def chosen(machine: Machine, of: Survey, hours: float = 1.0) -> tuple[Recipe, RecipePlan]:
    return choose_recipe(of, machine, CaptionIds(48, 12, 0.05), HELD_OUT, PROMPTS, Wishes("cups", hours))


@pytest.mark.parametrize("name", MACHINES)
def test_the_file_gives_the_recipe_that_was_planned(tmp_path: Path, name: str) -> None:
    recipe, plan = chosen(MACHINES[name], survey())
    file = tmp_path / "cups.py"
    file.write_text(recipe_source(recipe, 'A "head"\\', {"stages.0.steps": "because " * 40}))
    assert load_recipe(str(file)) == recipe == plan.recipe
    assert all(len(line) <= 120 for line in file.read_text().splitlines())


@pytest.mark.parametrize("name", MACHINES)
def test_a_large_corpus_gets_the_steps_that_the_hours_hold(name: str) -> None:
    recipe, plan = chosen(MACHINES[name], survey(rows=50_000_000), hours=3)
    assert hours_of(plan, MACHINES[name]) == pytest.approx(3, rel=0.1)
    assert recipe.scaling.num_workers == max(MACHINES[name].gpus, 2 if not MACHINES[name].gpus else 0)


def test_a_small_corpus_is_not_seen_more_often_than_it_is_worth() -> None:
    recipe, plan = chosen(MACHINES["two cores"], survey(rows=500), hours=100)
    seen = recipe.stages[0].steps * recipe.stages[0].global_batch_size
    assert seen / (450 * 0.98) == pytest.approx(20, rel=0.05) and hours_of(plan, MACHINES["two cores"]) < 1


def test_what_the_look_found_is_in_the_recipe() -> None:
    recipe, _ = chosen(MACHINES["two cores"], survey())
    assert recipe.corpus.path == "/data/cups" and recipe.corpus.layout == "files"
    assert recipe.tokenization.caption_columns == {"caption": "en", "name": "zh"}
    assert recipe.tokenization.max_caption_ids == 48 and recipe.plan.mean_caption_ids == 12
    assert recipe.stages[0].sources["main"].held_out == HELD_OUT.query
    assert recipe.language_expert.where == f"not {HELD_OUT.query}"


def test_captions_that_are_too_long_are_cut_and_the_plan_counts_what_is_left() -> None:
    ids = CaptionIds.of_lengths([350] * 25 + [100] * 5)
    assert (ids.most, ids.mean, ids.cut_share) == (256, 230, 25 / 30)
    for machine in MACHINES.values():
        recipe, _ = choose_recipe(survey(), machine, ids, HELD_OUT, PROMPTS, Wishes("cups", 1))
        assert recipe.tokenization.max_caption_ids == 256 and recipe.plan.mean_caption_ids == 230
    assert CaptionIds.of_lengths([10] * 95 + [41] * 5).most == 16
    assert CaptionIds.of_lengths([10] * 90 + [41] * 10) == CaptionIds(48, 13, 0.0)


def test_only_large_pictures_get_a_stage_of_detail() -> None:
    large, _ = chosen(MACHINES["A100 of 80 GB"], survey(side_px=600))
    small, _ = chosen(MACHINES["A100 of 80 GB"], survey(side_px=500))
    assert [len(large.stages), len(small.stages)] == [3, 2]
    assert large.stages[2].sources["main"].where and not small.tokenization.size_hr_px


def test_a_gpu_that_holds_no_recipe_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="unknown"):
        chosen(Machine(8, 1, "K80"), survey())
