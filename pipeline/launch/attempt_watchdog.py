"""Watches one attempt at a stage from outside its workers: kills them if they hang, and passes on stop requests."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import ray
from ray.actor import ActorHandle

from pipeline.runtime.watchdog import stacks_file
from pipeline.training.stop_request import StopRequest

MAX_LINES = 80
"""Lines of a rank's stacks that go to the log; all of them are in its file."""


class AttemptWatchdog:
    """Part of the monitor actor that knows the workers, and kills them when they hang.

    Args:
        folder: the stage's folder, which holds the workers' stack dumps.
        timeout_s: see `StageConfig.step_timeout_s`.
        log: called with lines for the operator.
    """

    def __init__(self, folder: Path, timeout_s: float, log: Callable[[str], None]) -> None:
        self._folder, self._timeout_s, self._log = folder, timeout_s, log
        self._workers: dict[int, tuple[ActorHandle[object], str]] = {}
        self._last_heartbeat: float | None = None
        self._request: StopRequest | None = None
        threading.Thread(target=self._watch, name="hangs", daemon=True).start()

    def joined(self, rank: int, worker: ActorHandle[object], where: str) -> None:
        """Registers a worker.

        Args:
            rank: the worker's rank.
            worker: the worker's actor.
            where: the worker's process and node, for the log.
        """
        self._workers[rank] = (worker, where)
        self.heartbeat()

    def has_workers(self) -> bool:
        """True if a worker has registered."""
        return bool(self._workers)

    def heartbeat(self) -> None:
        """Restarts the clock: rank 0 made progress."""
        self._last_heartbeat = time.monotonic()

    def request_stop(self, request: StopRequest) -> None:
        """Asks the attempt to end after its next step. The first request wins."""
        self._request = self._request or request

    def stop_requested(self) -> StopRequest | None:
        """Returns the first stop request, or None."""
        return self._request

    def _watch(self) -> None:
        # The workers' own watchdogs fire first, so that their stacks are on disk by now.
        grace_s = max(2.0, 0.05 * self._timeout_s)
        while True:
            time.sleep(min(1.0, grace_s / 2))
            if self._last_heartbeat is not None and time.monotonic() - self._last_heartbeat > self._timeout_s + grace_s:
                self._last_heartbeat = None
                self._end_hanging()

    def _end_hanging(self) -> None:
        self._log(f"no progress for {self._timeout_s:g} s (step_timeout_s): the workers hang, and are killed")
        for rank, (worker, where) in sorted(self._workers.items()):
            file = stacks_file(self._folder, rank)
            try:
                lines = file.read_text(errors="replace").splitlines()[1:]
            except OSError as error:
                lines = [str(error)]
            self._log(f"rank {rank}, {where}: " + (f"its stacks, from {file}:" if lines else "it wrote no stacks"))
            for line in lines[:MAX_LINES]:
                self._log(f"    {line}")
            ray.kill(worker)
