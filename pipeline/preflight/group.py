"""Runs measurements one after the other in a group of workers like a stage's."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import ray
import torch
from ray.actor import ActorProxy

from pipeline.config.scaling import ScalingConfig
from pipeline.launch.ray_train import join_worker_group, worker_group
from pipeline.preflight.finding import Finding
from pipeline.preflight.monitor import GroupMonitor, Progress
from pipeline.preflight.nccl_log import network_of_process
from pipeline.preflight.nodes import one_line
from pipeline.runtime.actors import actor_here
from pipeline.runtime.placement import removing_what_a_failure_leaves
from pipeline.runtime.shortage import saying_what_is_awaited

START_LIMIT_S = 180.0
"""Seconds within which the workers must have started: their processes, imports, and the process group."""
END_LIMIT_S = 30.0
POLL_S = 0.2
NOT_MEASURED = "not measured: the time was over"


class Part(Protocol):
    """A measurement that every rank takes part in."""

    @property
    def name(self) -> str:
        """Its name, unique in the group."""
        ...

    @property
    def is_last(self) -> bool:
        """True if its workers must not be used for another part, because it leaves their memory full."""
        ...

    @property
    def limit_s(self) -> float:
        """Seconds after which its workers are killed."""
        ...

    def run(self, node: str, device: torch.device) -> list[Finding]:
        """Measures as one rank, on the node of that id. Rank 0's findings count."""
        ...


@dataclass(frozen=True)
class GroupWorker:
    """Runs the parts as one rank. Called in the worker's process."""

    parts: tuple[Part, ...]
    monitor: ActorProxy[GroupMonitor]

    def __call__(self) -> None:
        context, me = join_worker_group(), ray.get_runtime_context()
        self.monitor.joined.remote(me.current_actor)
        try:
            for part in self.parts:
                if context.rank == 0:
                    ray.get(self.monitor.began.remote(part.name))
                findings = part.run(me.get_node_id(), context.device)
                if context.rank == 0:
                    ray.get(self.monitor.ended.remote(part.name, findings))
        finally:
            network_of_process()  # also removes NCCL's log


@dataclass(frozen=True)
class Group:
    """The settings with which workers are started.

    Attributes:
        scaling: number and resources of the workers.
        storage: folder for Ray Train's own state.
        environment: their environment variables, in addition to those of a stage's workers.
        time_left_s: returns the seconds that are left for all parts.
        log: gets the name of each part that begins.
    """

    scaling: ScalingConfig
    storage: Path
    environment: dict[str, str]
    time_left_s: Callable[[], float]
    log: Callable[[str], object]


@dataclass(frozen=True)
class Outcome:
    """Findings and problems by the parts' names; each part has one of the two."""

    findings: dict[str, list[Finding]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def run_parts(parts: Sequence[Part], group: Group) -> Outcome:
    """Runs the parts, as many as possible in one group of workers. If a part fails or takes too long, another group
    runs the parts after it."""
    outcome, left = Outcome(), list(parts)
    while left:
        if group.time_left_s() <= 0:
            outcome.problems.update({part.name: NOT_MEASURED for part in left})
            break
        together = _together(left)
        findings, problem, has_ended = _run_group(together, group)
        outcome.findings.update(findings)
        missing = [part for part in together if part.name not in findings]
        if missing:
            outcome.problems[missing[0].name] = problem or "the workers ended without a result"
        left = missing[1:] + left[len(together) :]
        if left and not has_ended:
            outcome.problems.update({part.name: f"not measured: {problem}" for part in left})
            break
    return outcome


def _together(parts: Sequence[Part]) -> list[Part]:
    """Returns the parts up to the first after which new workers are needed."""
    last = next((number for number, part in enumerate(parts) if part.is_last), len(parts) - 1)
    return list(parts[: last + 1])


def _run_group(parts: Sequence[Part], group: Group) -> tuple[dict[str, list[Finding]], str, bool]:
    """Runs one group. Returns the findings by part, the problem that ended it, and True if its workers are gone."""
    monitor = actor_here(GroupMonitor).remote()
    name = f"preflight-{os.urandom(4).hex()}"
    trainer = worker_group(GroupWorker(tuple(parts), monitor), group.scaling, name, group.storage, group.environment)
    errors: list[str] = []

    def fit() -> None:
        try:
            with removing_what_a_failure_leaves():
                trainer.fit()
        except Exception as error:  # of any kind: it becomes a finding
            errors.append(_cause(error))

    running = threading.Thread(target=fit, name="worker group", daemon=True)
    running.start()
    watch = _Watch(parts, group)
    with saying_what_is_awaited("preflight"):
        while running.is_alive():
            running.join(POLL_S)
            if running.is_alive() and (late := watch.late(ray.get(monitor.progress.remote()))):
                errors.insert(0, late)
                ray.get(monitor.kill_workers.remote())
                running.join(END_LIMIT_S)
                break
    return ray.get(monitor.progress.remote()).findings, next(iter(errors), ""), not running.is_alive()


def _cause(error: Exception) -> str:
    """The error of the lowest rank that failed, or else that of the group."""
    failures = getattr(error, "worker_failures", {})
    if not failures:
        return one_line(error)
    rank, failure = min(failures.items())
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"rank {rank}: {lines[-1] if lines else type(failure).__name__}"


class _Watch:
    """Tells when a group's time is over."""

    def __init__(self, parts: Sequence[Part], group: Group) -> None:
        self._limits, self._group = {part.name: part.limit_s for part in parts}, group
        self._under_way, self._since = "", time.monotonic()

    def late(self, progress: Progress) -> str:
        """Returns why the group must end; empty if it may go on."""
        now = time.monotonic()
        if progress.under_way != self._under_way:
            self._under_way, self._since = progress.under_way, now
            self._group.log(self._under_way)
        limit_s = self._limits[self._under_way] if self._under_way else START_LIMIT_S
        if now - self._since <= limit_s and self._group.time_left_s() > 0:
            return ""
        if not self._under_way:
            started = f"{progress.joined} of {self._group.scaling.num_workers} workers"
            return f"only {started} started within {now - self._since:.0f} s"
        return f"took longer than {now - self._since:.0f} s, and was ended"
