"""Finds ranks that hang: where no step ends for too long, all stacks are written down.

The clock is CPython's own, in C: it goes off even where a rank waits inside of a collective or holds the interpreter's
lock. Ending the attempt is for whoever started the ranks: see `pipeline.launch.attempt_watch`.
"""

import faulthandler
import os
import socket
from pathlib import Path

STACKS_FOLDER = "stacks"


class StepWatchdog:
    """One rank's clock.

    Args:
        folder: the stage's.
        rank: of this process.
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
        """Restarts the clock."""
        faulthandler.dump_traceback_later(self._timeout_s, file=self._file)

    def close(self) -> None:
        """Stops the clock."""
        faulthandler.cancel_dump_traceback_later()
        self._file.close()


def stacks_file(folder: Path, rank: int) -> Path:
    """Where a rank's stacks go."""
    return folder / STACKS_FOLDER / f"rank-{rank:05d}.txt"
