"""Finds the newest model at the place that a user names: a run, a stage, a checkpoint, or an exported folder."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.export.export import export_model, exported_from, source_of
from pipeline.runs.find_checkpoint import find_checkpoint
from pipeline.runs.paths import RunPaths
from pipeline.runs.token_check import checked_fingerprint
from pipeline.runtime.terminal import say
from pipeline.serving.served_model import ServedModel, served_export, served_run
from tokenization.files.checks import check_writable
from tokenization.text_tokenizer import load_text_tokenizer

KEPT_EXPORTS = 2
"""Exports of a run's folder `serving` that are kept: the one that is served, and the one that is being left."""

ModelSource = Callable[[], ServedModel]
"""Returns the newest model. A run's checkpoint is exported first if that is not done yet."""


def model_source(location: str, paths: RunPaths) -> ModelSource:
    """Returns where models come from.

    Args:
        location: as in `find_checkpoint`, or an exported folder.
        paths: the run of the recipe, for an empty location and for checkpoints in a bucket.
    """
    folder = Path(location).absolute()
    if location and "://" not in location and (folder / "config.json").exists():
        return lambda: served_export(folder)
    return lambda: _newest_of_run(location, paths)


def _newest_of_run(location: str, paths: RunPaths) -> ServedModel:
    paths, number, checkpoint = find_checkpoint(location, paths)
    recipe, averaged = paths.recipe, paths.recipe.evaluation.averaged_weights
    source = source_of(checkpoint, averaged)
    served = served_run(paths, number, checkpoint, paths.export)
    if exported_from(paths.export) == source:
        return served
    out = paths.run / "serving" / source.replace(", ", "-")
    if exported_from(out) != source:
        check_writable(paths.run)
        fingerprint = checked_fingerprint(recipe, paths)
        tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
        sizes = (fingerprint.codebook_size, recipe.model_options, tokenizer, out)
        export_model(paths.initial_model, checkpoint, *sizes, averaged=averaged)
        say(f"serve: exported {source} to {out}")
        _remove_old(out.parent)
    return replace(served, export=str(out))


def _remove_old(folder: Path) -> None:
    exports = sorted((each for each in folder.iterdir() if each.is_dir()), key=lambda each: each.stat().st_mtime)
    for each in exports[:-KEPT_EXPORTS]:
        shutil.rmtree(each, ignore_errors=True)
