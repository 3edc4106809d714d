"""Handles SIGTERM and Ctrl-C, which ask a job to end soon, and lets no process hang at its end."""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import PreemptedError

EXIT_S = 15.0
"""Seconds from the end of a process's main thread to its own end."""
ASKED = "the job was asked to end (SIGTERM or Ctrl-C)"
_terminated = threading.Event()
"""Set when SIGTERM has interrupted this process."""


def interrupt_on_sigterm() -> None:
    """Lets SIGTERM interrupt the main thread as Ctrl-C does. `was_terminated` tells them apart."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def was_terminated() -> bool:
    """True if SIGTERM has interrupted this process."""
    return _terminated.is_set()


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGTERM:
        _terminated.set()
    raise KeyboardInterrupt  # Ray turns any other exception of a handler into lines of a traceback, or drops it


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def exit_soon(code: int) -> None:
    """Ends this process `EXIT_S` after its main thread at the latest, whatever its other threads wait for: those of
    boto3 may wait for minutes for a service that does not answer."""

    def end() -> None:
        threading.main_thread().join()
        time.sleep(EXIT_S)
        sys.stdout.flush()
        os._exit(code)

    threading.Thread(target=end, name="ends the process", daemon=True).start()
    atexit.register(_ignore_signals)  # runs before Ray ends its processes


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
            raise PreemptedError(f"{ASKED} while no worker trained; run the same command again to resume")

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. A second signal ends the job at once."""
        if self.requested.is_set():
            _interrupt(number, frame)
        self.requested.set()
        self.check()


@contextmanager
def recording_signals() -> Iterator[Termination]:
    """Context manager that records SIGTERM and Ctrl-C instead of ending the process.

    Enter it on the main thread after Ray was started: Ray installs its own handler, which ends the process.
    """
    state = Termination()
    before = {number: signal.signal(number, state.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def cleaning_up(clean: Callable[[], None]) -> Iterator[None]:
    """Calls `clean` after the enclosed block, also when SIGTERM or Ctrl-C ends it. Further ones do not interrupt it.

    Enter it on the main thread. SIGKILL cannot be caught.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        interrupted = signal.getsignal(signal.SIGINT)
        _ignore_signals()
        try:
            clean()
        finally:
            signal.signal(signal.SIGTERM, before)
            signal.signal(signal.SIGINT, interrupted)
