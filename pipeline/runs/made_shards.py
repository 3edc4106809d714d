"""Writes missing shards of corpora that the project itself makes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from pipeline.ledger.account import Counts
from pipeline.runs.attempt import connect_run, ledger_attempt
from pipeline.runs.paths import RunPaths
from pipeline.runtime.placement import reserved
from pipeline.runtime.terminal import say

ShardTasks = dict[Path, tuple[Callable[..., None], tuple[object, ...], int]]
"""Maps a shard's path to the function that writes it, the function's arguments after the path, and the number of
rows."""


def write_missing(tasks: ShardTasks, paths: RunPaths) -> None:
    """Writes the missing shards, each in a task on one CPU."""
    missing = {path: task for path, task in tasks.items() if not path.exists()}
    if not missing:
        say(f"corpus: all {len(tasks)} shards are there")
        return
    connect_run(paths, use_gpu=False)
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
            ledger.add.remote(Counts(samples=waiting.pop(finished), steps=1))
            say(f"corpus: {done} of {len(tasks)} shards")
