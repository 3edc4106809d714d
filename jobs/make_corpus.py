#!/usr/bin/env -S python -P
"""Makes the recipe's corpora that have no path, like the demo's, or a corpus of noise for benchmarks."""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.common.cli import JobOptions, at_least, run_job
from pipeline.errors import UsageError


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `make_corpus`."""

    kind: Literal["recipe", "noise"] = "recipe"
    """recipe: the recipe's corpora that have no path. noise: pictures of noise with captions of random words, for
    benchmarks."""
    rows: int = 10_000
    """For noise: number of pictures."""
    size_px: int = 384
    """For noise: shorter side of the pictures, px; the longer one is up to 1.5 times as long."""
    shard_rows: int = 1000
    """For noise: pictures per shard."""
    output: str = ""
    """For noise: folder for the shards (default: `noise` in the run's folder)."""


def main(options: Options) -> None:
    from pipeline.benchmarks.noise_corpus import make_noise
    from pipeline.demo.corpora import make_corpus

    recipe, paths = options.resolve()
    if options.kind == "noise":
        at_least(options, rows=1, size_px=1, shard_rows=1)
        folder = Path(options.output).absolute() if options.output else paths.run / "noise"
        make_noise(folder, options.rows, options.size_px, options.shard_rows, paths)
        return
    made = [name for name, corpus in recipe.corpora.items() if not corpus.path]
    if not made:
        raise UsageError(f"recipe {recipe.name!r} has its corpora elsewhere; there is nothing to render")
    for name in made:
        make_corpus(name, recipe, paths)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
