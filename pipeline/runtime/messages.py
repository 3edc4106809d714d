"""Passes lines from actors and tasks to the user of a job.

The output of Ray's processes goes to Ray's logs, because the libraries in them print too much.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import ray
from ray.actor import ActorProxy

from pipeline.runtime.background import in_background
from pipeline.runtime.terminal import say

POLL_S, TIMEOUT_S = 1.0, 30.0


class Messages:
    """Actor that keeps lines until the job fetches them."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @ray.method
    def log(self, line: str) -> None:
        self._keep(line)

    @ray.method
    def take(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def _keep(self, line: str) -> None:
        self._lines.append(line)


M = TypeVar("M", bound=Messages)


@contextmanager
def relaying_messages(messages: ActorProxy[M], whose: str = "the workers") -> Iterator[None]:
    """Prints the actor's lines as they arrive, and the remaining ones at the end.

    Args:
        messages: the actor.
        whose: who gives it the lines, for what is said if none can be fetched.
    """

    def follow(ended: threading.Event) -> None:
        may_have_more = True
        while may_have_more and not ended.wait(POLL_S):
            may_have_more = _say_all(messages, whose)
        if may_have_more:
            _say_all(messages, whose)

    with in_background(follow, "messages"):
        yield


def _say_all(messages: ActorProxy[M], whose: str) -> bool:
    """Prints all lines so far. Returns True if there may be more."""
    try:
        for line in ray.get(messages.take.remote(), timeout=TIMEOUT_S):
            say(line)
    except ray.exceptions.GetTimeoutError:
        say(f"no message from {whose} for {TIMEOUT_S:.0f} s; `ray status` shows the cluster")
    except ray.exceptions.RayError as error:
        say(f"no more messages from {whose} ({type(error).__name__}); the job goes on or ends by itself")
        return False
    return True
