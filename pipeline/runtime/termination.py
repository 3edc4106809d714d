"""SIGTERM to a job: the machine, or whoever runs the job, wants it to end soon."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import PreemptedError


class Termination:
    """Whether the job was asked to end, and whether a worker would hear of it.

    Attributes:
        asked: the job was asked to end.
        nobody_trains: no worker would hear of it; the job then ends at once.
    """

    def __init__(self) -> None:
        self.asked, self.nobody_trains = threading.Event(), threading.Event()

    def check(self) -> None:
        """Raises PreemptedError where the job was asked to end and no worker trains."""
        if self.asked.is_set() and self.nobody_trains.is_set():
            raise PreemptedError("the job was asked to end (SIGTERM) while no worker trained; the same command goes on")

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Signal handler. The second signal ends the process."""
        if self.asked.is_set():
            sys.exit(128 + number)
        self.asked.set()
        self.check()


@contextmanager
def termination() -> Iterator[Termination]:
    """Within it SIGTERM is noted.

    Enter it on the main thread, after Ray was started: Ray has a handler of its own, which ends the process.
    """
    state = Termination()
    before = signal.signal(signal.SIGTERM, state.handle)
    try:
        yield state
    finally:
        signal.signal(signal.SIGTERM, before)
