"""Lines from actors and tasks to whoever runs the job.

What processes of Ray print goes to Ray's logs: the libraries in them have too much to say.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipeline.runtime.background import in_background
from pipeline.runtime.terminal import say

POLL_S, TIMEOUT_S = 1.0, 30.0


class Messages:
    """Actor that keeps lines until the job fetches them."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def log(self, line: str) -> None:
        """Keeps one more."""
        self._lines.append(line)

    def take(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


@contextmanager
def relaying_messages(messages: Any) -> Iterator[None]:
    """Says the lines of a `Messages` actor as they come, and the last of them at the end."""

    def follow(ended: threading.Event) -> None:
        heard = True
        while heard and not ended.wait(POLL_S):
            heard = _say_all(messages)
        if heard:
            _say_all(messages)

    with in_background(follow, "messages"):
        yield


def _say_all(messages: Any) -> bool:
    """Whether there may be more."""
    try:
        for line in ray.get(messages.take.remote(), timeout=TIMEOUT_S):
            say(line)
    except ray.exceptions.GetTimeoutError:
        say(f"no word from the workers for {TIMEOUT_S:.0f} s; `ray status` shows the cluster")
    except ray.exceptions.RayError as error:
        say(f"no more messages from the workers ({type(error).__name__}); the job goes on or ends by itself")
        return False
    return True
