#!/usr/bin/env -S python -P
"""Writes a recipe for a corpus of your own: looks at it and at this machine, asks nothing, and shows the plan.

It takes a folder of captioned pictures, of WebDataset tars or of parquet files, local or in a bucket. The recipe is a
short Python file with a reason beside each setting; the other jobs take it by `--recipe FILE`.
"""

import jobs  # isort: skip

import os
import re
from dataclasses import dataclass
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Any

import tyro

import jobs.recipes
from jobs.common.cli import at_least, run_job
from pipeline.errors import UsageError
from pipeline.runs.paths import in_package_cache
from tokenization.config.sources import CORPUS_FORMATS

CPU_HOURS, GPU_HOURS = 1.0, 24.0


def _default(what: object) -> Any:
    """Shows in --help the value of a flag that is not given."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {what})")


@dataclass(frozen=True)
class Options:
    """Flags of `new_recipe`."""

    corpus: str
    """Folder or s3://, gs:// or az:// place of the corpus, in any layout of docs/formats.md but documents."""
    layout: Annotated[str, _default("by its files")] = ""
    """The corpus's layout, where its files are of several."""
    output: Annotated[str, _default("NAME.py, here")] = ""
    """The recipe's file."""
    name: Annotated[str, _default("the corpus's folder")] = ""
    """The recipe's name, which is also the run's folder."""
    root: Annotated[str, _default("`runs` in the checkout; without one, here")] = ""
    """Folder of the runs. The sheet of pictures goes to NAME in it."""
    rows: int = 256
    """Samples to look at."""
    hours: Annotated[float, _default(f"{CPU_HOURS:g} on CPU cores, {GPU_HOURS:g} on GPUs")] = 0.0
    """Most hours of training to plan for."""
    gpus: Annotated[int | None, _default("those of this machine")] = None
    """Number of GPUs to plan for; 0 for CPU cores."""
    gpu: Annotated[str, _default("that of this machine")] = ""
    """Model of the GPUs to plan for, as in A100-80GB."""
    vqgan: Annotated[str, _default("the project's own on CPU cores, models/vqgan-f16-8192-laion on GPUs")] = ""
    """VQ-GAN to use, see docs/weights.md."""
    language_expert: Annotated[str, _default("one that the run trains on CPU cores, models/qwen2-* on GPUs")] = ""
    """Folder of a Qwen to use, see docs/weights.md."""
    json: bool = False
    """Print what was found and planned as one JSON object on the last line."""


def main(options: Options) -> dict[str, Any]:
    at_least(options, rows=1, hours=0)
    if options.gpus is not None:
        at_least(options, gpus=0)
    if options.layout and options.layout not in CORPUS_FORMATS:
        raise UsageError(f"--layout {options.layout!r} is unknown; choose one of {', '.join(CORPUS_FORMATS)}")
    if in_package_cache() and not Path(options.output).is_absolute():
        raise UsageError("the job runs inside Ray's package cache, where outputs vanish; give an absolute --output")
    name = options.name or recipe_name(options.corpus)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"--name {name!r} cannot be a folder's name; use letters, digits, '.', '_' and '-'")

    from pipeline.own_corpus.choices import Wishes
    from pipeline.own_corpus.machine import this_machine
    from pipeline.own_corpus.run_folder import run_name
    from pipeline.reports.new_recipe import write_recipe

    place = options.corpus if "://" in options.corpus else os.path.abspath(options.corpus)
    name = run_name(options.root, name, place, is_fixed=bool(options.name))
    machine = this_machine(options.gpus, options.gpu)
    hours = options.hours or (GPU_HOURS if machine.gpus else CPU_HOURS)
    wishes = Wishes(name, hours, options.vqgan, options.language_expert)
    output = Path(options.output or f"{name}.py")
    return write_recipe(place, options.layout, options.rows, machine, wishes, options.root, output, options.json)


def recipe_name(corpus: str) -> str:
    """A name for the recipe of a corpus, from its folder's, that no recipe of the project has."""
    folder = corpus.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^a-z0-9]+", "_", folder.lower()).strip("_") or "own"
    known = {module.name for module in iter_modules(jobs.recipes.__path__)}
    return f"own_{name}" if name in known or name[0].isdigit() else name


if __name__ == "__main__":
    run_job(Options, main, __doc__)
