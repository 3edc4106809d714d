"""Lines from actors and tasks to whoever runs the job.

What processes of Ray print goes to Ray's logs: the libraries in them have too much to say.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from jobs.common.cli import say

POLL_S = 1.0


class Messages:
    """Actor that keeps lines until the job fetches them."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def tell(self, line: str) -> None:
        """Keeps one more."""
        self._lines.append(line)

    def take(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


@contextmanager
def saying(messages: Any) -> Iterator[None]:
    """Says the lines of a `Messages` actor as they come, and the last of them at the end."""
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(POLL_S):
            _say_all(messages)

    follower = threading.Thread(target=follow, name="messages", daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
        _say_all(messages)


def _say_all(messages: Any) -> None:
    try:
        lines = ray.get(messages.take.remote())
    except ray.exceptions.RayError as error:
        lines = [f"no messages: {type(error).__name__}"]
    for line in lines:
        say(line)
