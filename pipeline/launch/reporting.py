"""Reports from a group's workers to the driver's process, through an actor that takes rank 0's figures."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorProxy

from pipeline.runtime.messages import Messages

F = TypeVar("F")


class Monitor(Messages, Generic[F]):
    """Base of the actors that take rank 0's lines and its figures, of type `F`."""

    @ray.method
    def post(self, figures: F) -> None:
        """Takes the figures of a step."""
        raise NotImplementedError

    @ray.method
    def flush(self) -> None:
        """Writes buffered figures. Called once after the last figures."""


M = TypeVar("M", bound=Monitor[Any])


class RankReporter(Generic[F]):
    """Forwards rank 0's reports to the monitor, without waiting. Reports of other ranks are equal and are dropped.

    Args:
        monitor: actor that takes the reports.
        rank: rank of this process.
    """

    def __init__(self, monitor: ActorProxy[M], rank: int) -> None:
        self._post: Callable[[F], object] = monitor.post.remote
        self._log: Callable[[str], object] = monitor.log.remote
        self._flush: Callable[[], ray.ObjectRef[None]] = monitor.flush.remote
        self._is_first = rank == 0

    def post(self, figures: F) -> None:
        if self._is_first:
            self._post(figures)

    def log(self, line: str) -> None:
        if self._is_first:
            self._log(line)

    def flush(self) -> None:
        """Waits until the monitor has processed everything."""
        if self._is_first:
            ray.get(self._flush())
