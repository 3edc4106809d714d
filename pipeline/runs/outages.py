"""Says while a run's buckets do not answer. The workers that need them wait for themselves."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.runs.paths import RunPaths
from pipeline.runtime.background import in_background
from pipeline.runtime.terminal import say
from tokenization.files.object_folder import ObjectFolder
from tokenization.files.storage import open_storage
from tokenization.patience import outage_s
from tokenization.waiting import Wait

PROBE_EVERY_S, PROBE_AGAIN_S = 10.0, 1.0
"""Seconds between two requests to each bucket, and while one does not answer."""


@contextmanager
def saying_outages(paths: RunPaths, job: str) -> Iterator[None]:
    """Says which of the run's buckets does not answer, while the enclosed block runs."""
    folders = buckets_of(paths)
    if not folders:
        yield
        return

    def follow(ended: threading.Event) -> None:
        waits = [Wait(lambda line: say(f"{job}: {line}")) for _ in folders]
        pause_s = PROBE_EVERY_S
        while not ended.wait(pause_s):
            pause_s = PROBE_EVERY_S
            for folder, wait in zip(folders, waits, strict=True):
                if reason := folder.absence():
                    pause_s = PROBE_AGAIN_S
                    wait.still(f"{folder}, at most {outage_s() / 60:.3g} min in all: {reason}")
                else:
                    wait.over()

    with in_background(follow, "probes buckets"):
        yield


def buckets_of(paths: RunPaths) -> list[ObjectFolder]:
    """One folder in each bucket that the run reads or writes."""
    recipe = paths.recipe
    locations = [paths.ledger, *(paths.checkpoints(number) for number in range(1, len(recipe.stages) + 1))]
    locations += [where for name in recipe.corpora for where in (paths.source_of(name).url, paths.tokens_of(name))]
    by_bucket: dict[str, ObjectFolder] = {}
    for location in locations:
        if "://" in location and isinstance(folder := open_storage(location), ObjectFolder):
            by_bucket.setdefault(folder.bucket, folder)
    return list(by_bucket.values())
