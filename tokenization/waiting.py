"""Whoever waits says for what: after five seconds, and then once a minute."""

import logging
import time
from collections.abc import Callable

FIRST_S, EVERY_S = 5.0, 60.0
"""Seconds before the first line about a wait, and between two lines."""

Say = Callable[[str], object]


class Outlet:
    """Where this process's lines about waits go: to its log, until a job directs them to its user."""

    say: Say = logging.getLogger(__name__).warning


class Wait:
    """One wait at a time, whose lines come when they are due.

    Args:
        say: receives the lines; None for the process's `Outlet`.
    """

    def __init__(self, say: Say | None = None) -> None:
        self._say = say
        self._since: float | None = None
        self._due = 0.0

    def still(self, what: str, since: float | None = None) -> None:
        """To be called again and again while `what` is awaited, by default since the first call.

        Args:
            what: what is awaited, and why.
            since: when the wait began, by `time.monotonic`.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now if since is None else since
            self._due = self._since + FIRST_S
        if now >= self._due:
            self._due = now + EVERY_S
            (self._say or Outlet.say)(f"waiting for {what}{_so_far(now - self._since)}")

    def over(self) -> None:
        """To be called when nothing is awaited any more."""
        self._since = None


def _so_far(seconds: float) -> str:
    return f" ({seconds / 60:.0f} min so far)" if seconds >= EVERY_S else ""
