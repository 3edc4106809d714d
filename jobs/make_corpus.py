#!/usr/bin/env -S python -P
"""Makes a corpus: the demo's drawings with English and Chinese names and illustrated lists of them, or noise."""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.common.cli import JobOptions, run_job
from pipeline.config.recipe import Recipe
from pipeline.demo.corpora import make_corpus, write_missing
from pipeline.errors import UsageError
from pipeline.runs.paths import RunPaths
from pipeline.runtime.terminal import say
from tokenization.demo.noise import write_noise_shard


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `make_corpus`."""

    kind: Literal["drawings", "noise"] = "drawings"
    """drawings: the recipe's corpora that are made of drawings. noise: pictures of noise with captions of random words,
    for benchmarks."""
    rows: int = 10_000
    """Of noise: pictures."""
    size_px: int = 384
    """Of noise: shorter side of the pictures, px; the longer one is up to half as long again."""
    shard_rows: int = 1000
    """Of noise: pictures a shard."""
    output: str = ""
    """Of noise: folder for the shards (default: `noise` in the run's folder)."""


def main(options: Options) -> None:
    """Writes the shards that are missing."""
    recipe, paths = options.resolve()
    if options.kind == "noise":
        make_noise(options, recipe, paths)
        return
    made = [name for name, corpus in recipe.corpora.items() if not corpus.path]
    if not made:
        raise UsageError(f"recipe {recipe.name!r} has its corpora elsewhere; there is nothing to render")
    for name in made:
        make_corpus(name, recipe, paths)


def make_noise(options: Options, recipe: Recipe, paths: RunPaths) -> None:
    """Writes the shards of noise that are missing."""
    for name in ("rows", "size_px", "shard_rows"):
        if getattr(options, name) < 1:
            raise UsageError(f"{name} is {getattr(options, name)}, it must be at least 1")
    folder = Path(options.output).absolute() if options.output else paths.run / "noise"
    tasks = {}
    for start in range(0, options.rows, options.shard_rows):
        count = min(options.shard_rows, options.rows - start)
        path = folder / f"{start // options.shard_rows:05d}.tar"
        tasks[path] = (write_noise_shard, (start, count, options.size_px, recipe.seed), count)
    write_missing(tasks, paths)
    say(f"corpus: {options.rows} pictures of noise, shorter side {options.size_px} px, in {folder}")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
