"""The ledger: append-only rows of what each attempt of a job held and did.

One JSON-lines file an attempt: a row at its start, one every heartbeat, one at its end. An attempt that is
killed leaves its last heartbeat behind, so at most one heartbeat of it is lost.
"""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import ray

from pipeline.driver_node import actor_here

SECONDS_PER_DAY = 86_400
COUNTERS = ("productive_seconds", "steps", "samples", "tokens", "flop")


@dataclass(frozen=True)
class Attempt:
    """Who spends, and what they hold.

    Attributes:
        run, job, stage: `stage` is empty for jobs that have none.
        gpu_model: `CPU` for a job that holds none.
        gpu_count: GPUs held, or CPUs where `gpu_model` is `CPU`.
    """

    run: str
    job: str
    stage: str
    gpu_model: str
    gpu_count: int


class LedgerFile:
    """Writes one attempt's rows. `heartbeat_s` are the seconds between two."""

    def __init__(self, folder: str, attempt: Attempt, heartbeat_s: float) -> None:
        name = f"{attempt.job}{attempt.stage and '-' + attempt.stage}-{time.strftime('%Y%m%dT%H%M%S')}"
        self._id = f"{name}-{uuid.uuid4().hex[:8]}"
        self._path = Path(folder) / f"{self._id}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._attempt, self._started = attempt, time.time()
        self._counters: dict[str, float] = dict.fromkeys(COUNTERS, 0.0)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._write("start")
        threading.Thread(target=self._beat, args=(heartbeat_s,), daemon=True).start()

    def add(self, **counts: float) -> None:
        """Adds to the counters, by their names in `COUNTERS`."""
        with self._lock:
            for name, value in counts.items():
                self._counters[name] += value

    def end(self, outcome: str) -> None:
        """Writes the last row."""
        self._ended.set()
        self._write(f"end: {outcome}")

    def _beat(self, heartbeat_s: float) -> None:
        while not self._ended.wait(heartbeat_s):
            self._write("heartbeat")

    def _write(self, event: str) -> None:
        with self._lock:
            row: dict[str, Any] = {"attempt": self._id, "event": event, "time": time.time()}
            row |= vars(self._attempt) | {"seconds": time.time() - self._started} | self._counters
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")


@contextmanager
def keep_ledger(folder: Path, attempt: Attempt, heartbeat_s: float) -> Iterator[Any]:
    """Counts the enclosed work. Yields an actor handle: workers call `handle.add.remote(steps=1, ...)`.

    The rows come from an actor of their own, so they go on while the driver waits for a training run.
    """
    actor = actor_here(LedgerFile).remote(str(folder), attempt, heartbeat_s)
    outcome = "failed"
    try:
        yield actor
        outcome = "done"
    finally:
        ray.get(actor.end.remote(outcome))


def read_ledger(folder: Path) -> pd.DataFrame:
    """The last row of every attempt, with its `days`: devices times seconds over 86,400."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        if lines:
            rows.append(json.loads(lines[-1]))
    table = pd.DataFrame(rows)
    if len(table):
        table["days"] = table["gpu_count"] * table["seconds"] / SECONDS_PER_DAY
    return table
