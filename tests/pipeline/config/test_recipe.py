"""A run that an earlier version of the project began goes on: its recipe has the same hashes and can be read."""

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from jobs.common.recipes import load_recipe
from pipeline.config.model import ModelOptions
from pipeline.config.recipe import RENAMED, Recipe, recipe_of
from pipeline.errors import InputError
from pipeline.launch.stage_inputs import resume_sha256

FINGERPRINT: Any = {"num_codes": 64}
DEMO_AS_IT_WAS = (
    "zero.dtype=bfloat16",  # the demo takes what this CPU is fast with
    "picture_position_std=0.05",
    *(f"stages.{number}.task_weights.opener=0.002" for number in range(3)),
    "stages.2.task_weights.captioning=0.15",
    "stages.2.task_shares.high_resolution=0.8",
    "stages.2.task_shares.captioning=0.2",
    "stages.2.steps=340",
)
"""The demo's settings of version 0.1.0 that have changed since: the code, not the recipe, must keep the hashes."""
HASHES = {
    "demo": (
        "faef88baf4eb71186b0ce8a1993459ad47a6b534aea2e0fd2374ef6250edc7d9",
        "7562c466e6f4af63f5fc6df3772ff955d7ebc09e2bd9cda901fe2bde0ab98781",
        "34e920b76ecb60ea7100bea2c776090167ecdc8a6a1d36a945e5cf7e46198fdc",
    ),
    "mars_1b": (
        "b9f0a70639570b9983775d1df49549d2a569de3a59277f484b6dfa3371fbce08",
        "8c6e3c8b741bd6a8b8b86880ace530995bcee1975851520575b4cab35af5df4d",
        "7b7806f878de757381699bff81502246a9c5a0816446e1f2c6447783b0a54372",
    ),
    "mars_7b": (
        "1d3eef41db7c59f3154156e93df5ba2e51c33ebd66b28214171ccfb464c2cb2c",
        "a8d369db33aac7a900aef65d722302663a07bad725a8fa8f9673e04a15e579c0",
        "3241eb5310ce16f1922be044e8e6c4130ca740b3be98d1fdade41068bc945d43",
    ),
}
"""Of each stage, as of version 0.1.0."""


@pytest.mark.parametrize("name", HASHES)
def test_stages_have_the_hashes_that_earlier_runs_recorded(name: str) -> None:
    recipe = load_recipe(name, DEMO_AS_IT_WAS if name == "demo" else ())
    assert tuple(resume_sha256(recipe, stage, FINGERPRINT) for stage in recipe.stages) == HASHES[name]


@pytest.mark.parametrize("name", ["demo", "demo_compose", "mars_05b", "mars_1b", "mars_7b"])
def test_a_recipe_comes_back_from_its_json_as_it_was(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe_of(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_an_older_recipe_json_takes_todays_defaults_for_what_it_lacks() -> None:
    recipe = replace(load_recipe("demo"), picture_position_std=0.0)
    values = json.loads(json.dumps(asdict(recipe)))
    del values["picture_position_std"], values["stages"][0]["step_timeout_s"], values["scaling"]["grow_after_s"]
    assert recipe_of(values) == recipe


def test_settings_that_have_another_name_now_are_read_under_their_old_one() -> None:
    recipe = load_recipe("demo", ("corpora.lists.pictures_per_list=2", "evaluation.grid_pictures=5"))
    text = json.dumps(asdict(recipe))
    for old, new in RENAMED.items():
        assert f'"{new}"' in text, "the table names a setting that is no more"
        text = text.replace(f'"{new}"', f'"{old}"')
    assert recipe_of(json.loads(text)) == recipe


@pytest.mark.parametrize("key", ["nothing", "stages.0.nothing"])
def test_a_recipe_json_with_a_setting_that_is_not_known_is_refused(key: str) -> None:
    values = json.loads(json.dumps(asdict(load_recipe("demo"))))
    (values if key == "nothing" else values["stages"][0])["nothing"] = 1
    with pytest.raises(InputError, match=r"another version of the project.*nothing"):
        recipe_of(values)


def test_a_recipe_has_every_option_of_the_model_and_hands_them_on() -> None:
    options = ModelOptions(True, 0.25, 0.5)
    recipe = Recipe("test", **asdict(options))
    assert recipe.model_options == options
    assert [one.name for one in fields(ModelOptions)] == [*asdict(recipe.model_options)]
