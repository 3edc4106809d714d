"""The faults of the soak. Each returns what it hit, or an empty string if there was nothing to hit."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.faulty_server import FaultyServer
from tests.support.forked_workers import forked_workers
from tests.support.restartable_nodes import RestartableNodes
from tests.support.soak.job import SoakJob

ACTORS = (
    *("RayTrainWorker", "TrainController", "StageMonitor", "AsyncValidation", "LedgerActor"),
    *("Reader", "Encoder", "Writer"),
)
"""Classes of the actors that are killed."""
EXCUSE_S = 60.0
"""Seconds for which a fault explains that a job ends with exit code 3."""
OUTAGE_S, FULL_S, UNRELIABLE_S = (3.0, 12.0), (3.0, 8.0), (5.0, 15.0)
"""Shortest and longest duration of a fault that lasts."""
FAIL_EVERY, DELAY_S = 4, 0.3
BALLAST = "ballast"


@dataclass
class Faults:
    """What the soak does to its cluster.

    Attributes:
        nodes: the cluster.
        server: the service that keeps the bucket.
        disk: a small file system with the runs' folders.
        jobs: the running jobs.
        chance: source of all random decisions.
        restart_head: kills the head, calls a function, and starts another head at its address.
    """

    nodes: RestartableNodes
    server: FaultyServer
    disk: Path
    jobs: list[SoakJob]
    chance: random.Random
    restart_head: Callable[[Callable[[], None]], None]
    _until: dict[str, float] = field(default_factory=dict)
    _excuses: dict[str, float] = field(default_factory=dict)

    def kinds(self) -> dict[str, Callable[[], str]]:
        """All kinds of faults by their names."""
        actors = {f"kill {name}": lambda name=name: self._kill_actor(name) for name in ACTORS}
        return actors | {
            "kill driver": self._kill_driver,
            "lose node": self._lose_node,
            "restart head": self._restart_head,
            "bucket outage": lambda: self._lasting("outage", OUTAGE_S),
            "bucket unreliable": lambda: self._lasting("unreliable", UNRELIABLE_S),
            "bucket slow": lambda: self._lasting("slow", UNRELIABLE_S),
            "full disk": lambda: self._lasting("full", FULL_S),
        }

    @property
    def excuse(self) -> str:
        """Faults that explain an end of a job with exit code 3."""
        now = time.monotonic()
        return ", ".join(name for name, until in self._excuses.items() if now < until)

    def follow(self) -> None:
        """Ends the faults that have lasted long enough."""
        now = time.monotonic()
        is_on = {name: now < until for name, until in self._until.items()}
        self.server.down = is_on.get("outage", False)
        self.server.fault_every = FAIL_EVERY if is_on.get("unreliable") else 0
        self.server.delay_s = DELAY_S if is_on.get("slow") else 0.0
        ballast = self.disk / BALLAST
        if is_on.get("full"):
            _fill(ballast)
        else:
            ballast.unlink(missing_ok=True)

    def end(self) -> None:
        """Ends all faults that last."""
        self._until.clear()
        self.follow()

    def _lasting(self, name: str, bounds: tuple[float, float]) -> str:
        seconds = self.chance.uniform(*bounds)
        self._until[name] = time.monotonic() + seconds
        if name == "full":
            self._excuses["a full disk"] = self._until[name] + EXCUSE_S
        return f"{seconds:.1f} s"

    def _kill_actor(self, name: str) -> str:
        running = forked_workers().running(name)
        if not running:
            return ""
        process = self.chance.choice(running)
        process.kill()
        return f"process {process.pid}"

    def _kill_driver(self) -> str:
        running = [job for job in self.jobs if job.is_running]
        if not running:
            return ""
        job = self.chance.choice(running)
        job.kill()
        return job.name

    def _lose_node(self) -> str:
        node = self.nodes.kill_node(self.chance.randrange(len(self.nodes.nodes)))
        self.nodes.add_node()
        return f"node of process {node}"

    def _restart_head(self) -> str:
        """The new head starts once the jobs have ended: Ray's client ends a process from C++ when it meets another head
        at the old one's address."""
        self._excuses["a lost cluster"] = time.monotonic() + 2 * EXCUSE_S
        self.restart_head(self._await_ends)
        return "head and all nodes"

    def _await_ends(self) -> None:
        deadline = time.monotonic() + EXCUSE_S
        while any(job.is_running for job in self.jobs):
            assert time.monotonic() < deadline, "a job does not end with its cluster"
            time.sleep(0.2)


def _fill(ballast: Path) -> None:
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(bytes(65536)):
            continue
