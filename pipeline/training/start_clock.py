"""Measures the parts of an attempt's start, from the job's process to the first step."""

import time

from pipeline.step_figures import AttemptStart


class StartClock:
    """Measures consecutive parts. It uses the wall clock, because an attempt begins on another machine.

    Args:
        began_at: when the attempt began, in seconds of the wall clock.
    """

    def __init__(self, began_at: float) -> None:
        self._began_at = self._last = began_at
        self._seconds: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Ends a part, and begins the next one."""
        now = time.time()
        self._seconds[part] = now - self._last
        self._last = now

    def attempt_start(self) -> AttemptStart:
        """Ends the last part, the first step. Returns all of them."""
        self.lap("step")
        return AttemptStart(self._began_at, dict(self._seconds))
