"""Makes the demo's corpora, and corpora of noise, where they are missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from pipeline.config.recipe import CorpusConfig, Recipe
from pipeline.runs.attempt import ledger_attempt
from pipeline.runs.paths import RunPaths
from pipeline.runtime.placement import reserved
from pipeline.runtime.ray_connection import connect_to_ray
from pipeline.runtime.terminal import say
from tokenization.demo.lists import LISTS_FILE, illustrated_lists, write_lists
from tokenization.demo.noise import write_noise_shard
from tokenization.demo.openmoji import ATTRIBUTION, list_drawings, write_shard

ShardTasks = dict[Path, tuple[Callable[..., None], tuple[object, ...], int]]
"""A shard's path to what writes it, that function's arguments after the path, and the shard's rows."""


def attribution_of(corpus: CorpusConfig) -> str:
    """What must stand where pictures of a corpus are shown; empty for a corpus that this project did not make."""
    return "" if corpus.path else ATTRIBUTION


def make_corpus(name: str, recipe: Recipe, paths: RunPaths) -> None:
    """Makes the shards of one of the recipe's corpora that are missing."""
    corpus, folder, drawings = recipe.corpora[name], paths.corpus_of(name), list_drawings()
    if corpus.made == "lists":
        lists = illustrated_lists(drawings, corpus.groups, corpus.lists_per_group, corpus.pictures_per_list)
        tasks: ShardTasks = {folder / LISTS_FILE: (write_lists, (lists, corpus.size_px), len(lists))}
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
    say(f"corpus: {what} at {corpus.size_px} px in {folder}. {attribution_of(corpus)}")


def make_noise(folder: Path, num_rows: int, size_px: int, shard_rows: int, paths: RunPaths) -> None:
    """Makes the shards of a corpus of noise that are missing; see `write_noise_shard`.

    Args:
        folder: where they go.
        num_rows: pictures in all.
        size_px: shorter side of the pictures.
        shard_rows: pictures a shard.
        paths: of the run in whose ledger the work is counted, with whose seed the noise is drawn.
    """
    tasks: ShardTasks = {}
    for start in range(0, num_rows, shard_rows):
        count = min(shard_rows, num_rows - start)
        path = folder / f"{start // shard_rows:05d}.tar"
        tasks[path] = (write_noise_shard, (start, count, size_px, paths.recipe.seed), count)
    _write_missing(tasks, paths)
    say(f"corpus: {num_rows} pictures of noise, shorter side {size_px} px, in {folder}")


def _write_missing(tasks: ShardTasks, paths: RunPaths) -> None:
    missing = {path: task for path, task in tasks.items() if not path.exists()}
    if not missing:
        say(f"corpus: all {len(tasks)} shards are there")
        return
    connect_to_ray()
    cpus = min(len(missing), int(ray.cluster_resources().get("CPU", 1)))
    with ledger_attempt(paths, "make_corpus", use_gpu=False) as ledger, reserved(cpus) as strategy:
        ledger.working.remote()
        waiting = {}
        for path, (function, arguments, count) in missing.items():
            task: Any = ray.remote(function)
            waiting[task.options(scheduling_strategy=strategy).remote(path, *arguments)] = count
        done = len(tasks) - len(missing)
        while waiting:
            (finished, *_), _ = ray.wait(list(waiting))
            ray.get(finished)
            done += 1
            ledger.add.remote(samples=waiting.pop(finished), steps=1)
            say(f"corpus: {done} of {len(tasks)} shards")
