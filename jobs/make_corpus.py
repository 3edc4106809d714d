#!/usr/bin/env -S python -P
"""Renders the demo's corpus: OpenMoji drawings with English and Chinese names, as WebDataset tar shards."""

import sys
from pathlib import Path

# `jobs/tokenize.py` would hide the standard library's `tokenize` from every script in this folder.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from dataclasses import dataclass  # noqa: E402

import ray  # noqa: E402

from jobs.common.cli import JobOptions, connect_to_ray, counted, run_job, say  # noqa: E402
from jobs.common.exit_codes import UsageError  # noqa: E402
from jobs.common.recipe import Recipe  # noqa: E402
from jobs.common.run_paths import RunPaths  # noqa: E402
from tokenization.openmoji_corpus import ATTRIBUTION, list_drawings, write_shard  # noqa: E402


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `make_corpus`."""


def main(options: Options) -> None:
    """Renders the shards that are missing."""
    recipe, paths = options.resolve()
    if recipe.corpus.path:
        raise UsageError(f"recipe {recipe.name!r} has its corpus at {recipe.corpus.path!r}; there is nothing to render")
    make_corpus(recipe, paths)


def make_corpus(recipe: Recipe, paths: RunPaths) -> None:
    """Renders the shards that are missing, one Ray task a shard."""
    drawings, size = list_drawings(), recipe.corpus.shard_rows
    pieces = [drawings[start : start + size] for start in range(0, len(drawings), size)]
    missing = {
        number: path for number in range(len(pieces)) if not (path := paths.corpus / f"{number:05d}.tar").exists()
    }
    if not missing:
        say(f"corpus: all {len(pieces)} shards ({len(drawings)} drawings) are in {paths.corpus}")
        return
    connect_to_ray()
    cpus = min(len(missing), int(ray.cluster_resources().get("CPU", 1)))
    with counted(paths, "make_corpus", cpus, use_gpu=False) as ledger:
        write = ray.remote(write_shard)
        waiting = {
            write.remote(path, pieces[number], number, recipe.corpus.size_px): number
            for number, path in missing.items()
        }
        done = len(pieces) - len(missing)
        while waiting:
            (finished, *_), _ = ray.wait(list(waiting))
            ray.get(finished)
            number = waiting.pop(finished)
            done += 1
            ledger.add.remote(samples=len(pieces[number]), steps=1)
            say(f"corpus: {done} of {len(pieces)} shards")
    say(f"corpus: {len(drawings)} drawings at {recipe.corpus.size_px} px in {paths.corpus}. {ATTRIBUTION}")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
