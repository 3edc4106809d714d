"""Recipes and a fingerprint that the tests check requests for generation against."""

from dataclasses import replace

from jobs.common.recipes import load_recipe
from pipeline.config.recipe import Recipe
from tokenization.config.pictures import Transform
from tokenization.table.token_table import Fingerprint


def high_recipe() -> Recipe:
    recipe = load_recipe("demo")
    shares = {"text_to_image": 0.5, "high_resolution": 0.5}
    last = replace(recipe.stages[-1], task_shares=shares, high_resolution_role="high_2", high_resolution_group=4)
    return replace(recipe, stages=(*recipe.stages[:-1], last))


def base_recipe() -> Recipe:
    recipe = load_recipe("demo")
    return replace(recipe, stages=tuple(replace(s, task_shares={"text_to_image": 1.0}) for s in recipe.stages))


def fingerprint(num_codes_hr: int | None = 256) -> Fingerprint:
    sizes = Transform(128, 256 if num_codes_hr else 0).parameters()
    return Fingerprint("", "", sizes, "float32", [1], 8192, 64, 77, {}, None, num_codes_hr)
