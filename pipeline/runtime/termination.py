"""Handles SIGTERM, by which the machine or the user asks a job to end soon."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import PreemptedError


class Termination:
    """The state of a request to end the job.

    Attributes:
        requested: set if the job was asked to end.
        nobody_trains: set if no worker trains that could receive the request; the job then ends at once.
    """

    def __init__(self) -> None:
        self.requested, self.nobody_trains = threading.Event(), threading.Event()

    def check(self) -> None:
        """Raises PreemptedError if the job was asked to end and no worker trains."""
        if self.requested.is_set() and self.nobody_trains.is_set():
            raise PreemptedError("the job was asked to end (SIGTERM) while no worker trained; the same command goes on")

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. A second signal ends the process."""
        if self.requested.is_set():
            sys.exit(128 + number)
        self.requested.set()
        self.check()


@contextmanager
def recording_sigterm() -> Iterator[Termination]:
    """Context manager that records SIGTERM instead of ending the process.

    Enter it on the main thread after Ray was started: Ray installs its own handler, which ends the process.
    """
    state = Termination()
    before = signal.signal(signal.SIGTERM, state.handle)
    try:
        yield state
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def cleaning_up(clean: Callable[[], None]) -> Iterator[None]:
    """Calls `clean` after the enclosed block, also when SIGTERM or Ctrl-C ends it. Further ones do not interrupt it.

    Enter it on the main thread. SIGTERM becomes a SystemExit; SIGKILL cannot be caught.
    """
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        interrupted = signal.getsignal(signal.SIGINT)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        try:
            clean()
        finally:
            signal.signal(signal.SIGTERM, before)
            signal.signal(signal.SIGINT, interrupted)
