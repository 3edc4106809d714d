"""The folder of a run on a user's corpus: two corpora never share one."""

import json
import os
from itertools import count
from pathlib import Path

from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError
from pipeline.runs.paths import run_paths
from pipeline.runtime.terminal import say
from tokenization.files.atomic_writing import write_atomically
from tokenization.table.manifest import SETTINGS_FILE

CORPUS_FILE = "corpus.json"
"""File in the run's folder: the place of the corpus that `jobs/new_recipe.py` wrote a recipe for."""


def run_name(root: str, name: str, place: str, is_fixed: bool) -> str:
    """Returns a name whose run is of this corpus or has not begun.

    Args:
        root: folder of the runs.
        name: the name if its run is not of another corpus.
        place: the corpus.
        is_fixed: refuse another corpus's run, in place of another name.

    Raises:
        UsageError: the name is fixed, and its run is of another corpus.
    """
    run = run_paths(root, Recipe(name)).run
    other = _corpus_of(run)
    if other in ("", place):
        return name
    if is_fixed:
        raise UsageError(f"--name {name!r}: the run {str(run)!r} is of the corpus {other!r}; give another name")
    free = next(
        free
        for number in count(2)
        if _corpus_of(run_paths(root, Recipe(free := f"{name}_{number}")).run) in ("", place)
    )
    say(f"new_recipe: the run {str(run)!r} is of the corpus {other!r}; this one is called {free!r}")
    return free


def keep_place(run: Path, place: str) -> None:
    """Writes `CORPUS_FILE`."""
    write_atomically(run / CORPUS_FILE, lambda partial: partial.write_text(json.dumps({"url": place})))


def _corpus_of(run: Path) -> str:
    """The place of the corpus that a run's recipe or its tokens are of; empty if the run has neither."""
    tokens = run / "tokens" / SETTINGS_FILE
    if tokens.exists():
        url = str(json.loads(tokens.read_text(encoding="utf-8"))["corpus"]["url"])
        return url if "://" in url else os.path.normpath(url)
    kept = run / CORPUS_FILE
    return str(json.loads(kept.read_text(encoding="utf-8"))["url"]) if kept.exists() else ""
