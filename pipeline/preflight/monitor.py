"""The actor that takes what a group of workers found."""

from dataclasses import dataclass, field, replace

import ray
from ray.actor import ActorHandle

from pipeline.preflight.finding import Finding


@dataclass(frozen=True)
class Progress:
    """The workers' reports so far.

    Attributes:
        joined: number of workers that have joined.
        under_way: name of the part that was begun last; empty before the first.
        findings: the findings of each part that has ended.
    """

    joined: int = 0
    under_way: str = ""
    findings: dict[str, list[Finding]] = field(default_factory=dict)


class GroupMonitor:
    """Actor that takes the findings of rank 0, and kills the workers when their time is over."""

    def __init__(self) -> None:
        self._workers: list[ActorHandle[object]] = []
        self._progress = Progress()

    @ray.method
    def joined(self, worker: ActorHandle[object]) -> None:
        self._workers.append(worker)
        self._progress = replace(self._progress, joined=len(self._workers))

    @ray.method
    def began(self, part: str) -> None:
        self._progress = replace(self._progress, under_way=part)

    @ray.method
    def ended(self, part: str, findings: list[Finding]) -> None:
        self._progress = replace(self._progress, findings=self._progress.findings | {part: findings})

    @ray.method
    def progress(self) -> Progress:
        return self._progress

    @ray.method
    def kill_workers(self) -> None:
        for worker in self._workers:
            ray.kill(worker)
