"""Detects ranks that hang: if no step ends for too long, writes the stacks of all threads to a file.

The timer is CPython's faulthandler, in C: it fires even if a rank waits in a collective or holds the interpreter's
lock. The process that started the ranks ends the attempt: see `pipeline.launch.attempt_watchdog`.
"""

import faulthandler
import os
import socket
from pathlib import Path

STACKS_FOLDER = "stacks"


class StepWatchdog:
    """One rank's timer.

    Args:
        folder: the stage's folder.
        rank: rank of this process.
        timeout_s: seconds between two calls of `heartbeat` after which the stacks are written, to `stacks_file`.
    """

    def __init__(self, folder: Path, rank: int, timeout_s: float) -> None:
        path = stacks_file(folder, rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w")
        self._file.write(f"rank {rank}, process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        self._timeout_s = timeout_s

    def heartbeat(self) -> None:
        faulthandler.dump_traceback_later(self._timeout_s, file=self._file)

    def close(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()


def stacks_file(folder: Path, rank: int) -> Path:
    """The file for a rank's stacks."""
    return folder / STACKS_FOLDER / f"rank-{rank:05d}.txt"
