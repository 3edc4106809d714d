#!/usr/bin/env -S python -P
"""Makes a corpus: the demo's drawings with English and Chinese names and illustrated lists of them, or noise."""

import sys
from pathlib import Path

# `jobs/tokenize.py` would hide the standard library's `tokenize` from every script in this folder.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import Literal  # noqa: E402

import ray  # noqa: E402

from jobs.common.cli import JobOptions, connect_to_ray, counted, reserved, run_job, say  # noqa: E402
from jobs.common.exit_codes import UsageError  # noqa: E402
from jobs.common.recipe import Recipe  # noqa: E402
from jobs.common.run_paths import RunPaths  # noqa: E402
from tokenization.lists_corpus import LISTS_FILE, illustrated_lists, write_lists  # noqa: E402
from tokenization.noise_corpus import write_noise_shard  # noqa: E402
from tokenization.openmoji_corpus import ATTRIBUTION, list_drawings, write_shard  # noqa: E402


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


Tasks = dict[Path, tuple[Callable, tuple, int]]
"""A shard's path to what writes it, that function's arguments after the path, and the shard's rows."""


def make_corpus(name: str, recipe: Recipe, paths: RunPaths) -> None:
    """Makes the shards of one of the recipe's corpora that are missing."""
    corpus, folder, drawings = recipe.corpora[name], paths.corpus_of(name), list_drawings()
    if corpus.made == "lists":
        lists = illustrated_lists(drawings, corpus.groups, corpus.lists_per_group, corpus.drawings_per_list)
        tasks: Tasks = {folder / LISTS_FILE: (write_lists, (lists, corpus.size_px), len(lists))}
        what = f"{len(lists)} illustrated lists"
    else:
        size = corpus.shard_rows
        pieces = [drawings[start : start + size] for start in range(0, len(drawings), size)]
        tasks = {
            folder / f"{number:05d}.tar": (write_shard, (piece, number, corpus.size_px), len(piece))
            for number, piece in enumerate(pieces)
        }
        what = f"{len(drawings)} drawings"
    _write_missing(tasks, paths)
    say(f"corpus: {what} at {corpus.size_px} px in {folder}. {ATTRIBUTION}")


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
    _write_missing(tasks, paths)
    say(f"corpus: {options.rows} pictures of noise, shorter side {options.size_px} px, in {folder}")


def _write_missing(tasks: Tasks, paths: RunPaths) -> None:
    """Runs what writes the shards that are not there."""
    missing = {path: task for path, task in tasks.items() if not path.exists()}
    if not missing:
        say(f"corpus: all {len(tasks)} shards are there")
        return
    connect_to_ray()
    cpus = min(len(missing), int(ray.cluster_resources().get("CPU", 1)))
    with counted(paths, "make_corpus", use_gpu=False) as ledger, reserved(cpus) as strategy:
        ledger.working.remote()
        waiting = {
            ray.remote(function).options(scheduling_strategy=strategy).remote(path, *arguments): count
            for path, (function, arguments, count) in missing.items()
        }
        done = len(tasks) - len(missing)
        while waiting:
            (finished, *_), _ = ray.wait(list(waiting))
            ray.get(finished)
            done += 1
            ledger.add.remote(samples=waiting.pop(finished), steps=1)
            say(f"corpus: {done} of {len(tasks)} shards")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
