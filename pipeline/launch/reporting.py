"""How the workers of a group report to the driver's process: an actor takes what rank 0 says."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorProxy

from pipeline.runtime.messages import Messages

F = TypeVar("F")


class Monitor(Messages, Generic[F]):
    """Base of the actors that take rank 0's figures, of type `F`, and its lines."""

    @ray.method
    def post(self, figures: F) -> None:
        """Takes the figures of a step."""
        raise NotImplementedError

    @ray.method
    def flush(self) -> None:
        """Hands on what is held back. Called once after the last figures."""


M = TypeVar("M", bound=Monitor[Any])


class RankReporter(Generic[F]):
    """Forwards what rank 0 reports to the monitor, without waiting. Other ranks report the same, which is dropped.

    Args:
        monitor: the actor.
        rank: of this process.
    """

    def __init__(self, monitor: ActorProxy[M], rank: int) -> None:
        self._post: Callable[[F], object] = monitor.post.remote
        self._log: Callable[[str], object] = monitor.log.remote
        self._flush: Callable[[], ray.ObjectRef[None]] = monitor.flush.remote
        self._is_first = rank == 0

    def post(self, figures: F) -> None:
        """Takes the figures of a step."""
        if self._is_first:
            self._post(figures)

    def log(self, line: str) -> None:
        """Takes a line for whoever runs the job."""
        if self._is_first:
            self._log(line)

    def flush(self) -> None:
        """Waits until the monitor has taken everything."""
        if self._is_first:
            ray.get(self._flush())
