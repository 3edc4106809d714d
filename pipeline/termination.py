"""SIGTERM to a job: the machine, or whoever runs the job, wants it to end soon."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def termination() -> Iterator[threading.Event]:
    """Within it the first SIGTERM sets the event, and a second one ends the process at once.

    Enter it on the main thread, after Ray was started: Ray has a handler of its own, which ends the process.
    """
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            sys.exit(128 + number)
        asked.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
