"""The recipe that a stage's folder keeps. It names places in the run's folder so that the run may move."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config.recipe import Recipe, recipe_of
from tokenization.files.atomic_writing import write_atomically

RECIPE_FILE = "recipe.json"
"""File in a stage's folder."""
RUN = "{run}"
"""Stands for the run's folder at the beginning of a path."""


def write_stage_recipe(stage_folder: Path, recipe: Recipe) -> None:
    """Writes the recipe with which a stage trains."""
    run = str(stage_folder.parent)

    def stored(text: str) -> str:
        return RUN + text.removeprefix(run) if text == run or text.startswith(f"{run}/") else text

    text = json.dumps(_with_texts(asdict(recipe), stored), indent=2, ensure_ascii=False)
    write_atomically(stage_folder / RECIPE_FILE, lambda partial: partial.write_text(text))


def read_stage_recipe(stage_folder: Path) -> Recipe:
    """Reads the recipe with which a stage trained.

    Earlier code stored absolute paths. One that is gone is taken for the one of the same name in this run, if that is
    there: the run has moved.

    Raises:
        InputError: it was written by a version of the project whose recipes have other fields.
    """
    run = stage_folder.parent

    def here(text: str) -> str:
        if text == RUN or text.startswith(f"{RUN}/"):
            return str(run) + text.removeprefix(RUN)
        _, separator, inside = text.rpartition(f"/{run.name}/")
        moved = separator and text.startswith("/") and not Path(text).exists() and (run / inside).exists()
        return str(run / inside) if moved else text

    return recipe_of(_with_texts(json.loads((stage_folder / RECIPE_FILE).read_text()), here))


def _with_texts(node: Any, change: Callable[[str], str]) -> Any:
    """A tree of JSON values with every text changed."""
    if isinstance(node, str):
        return change(node)
    if isinstance(node, list | tuple):
        return [_with_texts(each, change) for each in node]
    if isinstance(node, dict):
        return {name: _with_texts(each, change) for name, each in node.items()}
    return node
