"""Runs of earlier versions go on: what they wrote down of their recipe is still read."""

import json
from dataclasses import asdict

import pytest

from jobs.common.recipes import load_recipe
from pipeline.config.recipe import recipe_of
from pipeline.errors import InputError


def test_a_recipe_with_the_names_of_an_earlier_version_is_the_same_recipe() -> None:
    recipe = load_recipe("demo")
    text = json.dumps(asdict(recipe))
    for now, earlier in (("grid_pictures", "grid_drawings"), ("pictures_per_list", "drawings_per_list")):
        assert now in text
        text = text.replace(now, earlier)
    assert recipe_of(json.loads(text)) == recipe


def test_a_value_that_no_version_had_is_refused() -> None:
    values = asdict(load_recipe("demo")) | {"no_such_value": 1}
    with pytest.raises(InputError, match="another version of the project.*no_such_value"):
        recipe_of(values)
