"""Watches the head of the Ray cluster that a job works on, and ends the job in one line once it is gone.

Without it, Ray's own client ends the process after a minute, from C++, and calls that wait for the cluster end in
errors of many types. This module imports no Ray: `jobs/common/cli.py` asks it at the end of every job.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from pipeline.errors import ClusterLostError, ExitCode
from pipeline.runtime.terminal import say, say_error

ANSWER_S = 10.0
"""Seconds to wait until a cluster's head takes a connection."""
POLL_S, ASKED = 1.0, 3
SAY_AFTER_S, LOST_AFTER_S = 5.0, 30.0
"""Seconds without an answer after which the job says that it waits, and after which it ends. Ray's own client ends the
process after 60 s (`RAY_gcs_rpc_server_reconnect_timeout_s`)."""
REFUSED_AFTER_S = 1.5
"""Seconds after which the job ends if the head's machine refuses connections and its state was in its memory alone. It
is gone then, and another head at its address must not be waited for: Ray's own client ends the process from C++ when it
meets one."""
RAISE_AGAIN_S = 0.1
UNWIND_S = 10.0
"""Seconds that the job has to leave what it is in, before its process ends."""


def answers(address: str | None, timeout_s: float = ANSWER_S) -> bool:
    """True if something listens at `HOST:PORT`."""
    try:
        return _listens(address, timeout_s)
    except OSError:
        return False


def _listens(address: str | None, timeout_s: float) -> bool:
    """Like `answers`. Raises OSError if nothing answers: ConnectionRefusedError if the machine does."""
    host, separator, port = (address or "").rpartition(":")
    if not separator:
        return False
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s):
            return True
    except OverflowError:
        return False


class ClusterWatch:
    """A thread that asks every second whether the head still answers.

    Args:
        address: `HOST:PORT` of the head's GCS.
        in_use: false once the job has left the cluster by itself; the watch then ends.

    Attributes:
        ends_with_head: True if the cluster's state is lost with its head.
    """

    def __init__(self, address: str, in_use: Callable[[], bool]) -> None:
        self.address, self._in_use, self.ends_with_head = address, in_use, False
        self._thread = threading.Thread(target=self._watch, name="watches the cluster", daemon=True)

    def start(self) -> None:
        # The signal interrupts calls of Ray's that wait; only the main thread runs handlers.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR2, self._raise)
            _raise_again_after_destructors()
            self._thread.start()

    def is_gone(self) -> bool:
        """True if the head does not answer, now and a moment later."""
        for _ in range(ASKED):
            if answers(self.address):
                return False
            time.sleep(POLL_S)
        return True

    def error(self) -> ClusterLostError:
        return ClusterLostError(
            f"the Ray cluster at {self.address} has ended or cannot be reached any more. What was finished is kept: "
            "start it again, or name another one with RAY_ADDRESS, then run the same command again to resume"
        )

    def _watch(self) -> None:
        silent_since, told = 0.0, False
        while self._in_use():
            time.sleep(POLL_S)
            is_there, refuses = self._ask()
            if is_there:
                if told:
                    say(f"Ray: the cluster at {self.address} answers again")
                silent_since, told = 0.0, False
                continue
            silent_since = silent_since or time.monotonic()
            silent_s = time.monotonic() - silent_since
            is_lost = silent_s >= (REFUSED_AFTER_S if refuses and self.ends_with_head else LOST_AFTER_S)
            if is_lost and self._in_use():
                return self._end()
            if silent_s >= SAY_AFTER_S and not told:
                told = True
                say(f"Ray: the cluster at {self.address} does not answer; the job waits {LOST_AFTER_S:.0f} s for it")

    def _ask(self) -> tuple[bool, bool]:
        """Returns whether the head takes connections, and whether its machine refuses them."""
        try:
            return _listens(self.address, ANSWER_S), False
        except OSError as error:
            return False, isinstance(error, ConnectionRefusedError)

    def _end(self) -> None:
        """Interrupts the main thread. If that hangs in a call to the cluster, ends the process."""
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(UNWIND_S)
        say_last(f"error: {self.error()}")
        sys.stdout.flush()
        os._exit(ExitCode.INPUT)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        raise self.error()


def _raise_again_after_destructors() -> None:
    """Sends the signal again if it came in a destructor, whose errors Python prints with a traceback and loses."""
    usual = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, ClusterLostError):
            threading.Timer(RAISE_AGAIN_S, os.kill, (os.getpid(), signal.SIGUSR2)).start()
        else:
            usual(unraisable)

    sys.unraisablehook = hook


_watching: list[ClusterWatch] = []
"""The watch of this process, if it has joined or started a cluster."""
_told = threading.Event()
"""Set once the job's last line is printed."""


def watch_cluster(address: str, in_use: Callable[[], bool]) -> None:
    """Watches the cluster that this job joins or has started; see `ClusterWatch`."""
    _watching[:] = [ClusterWatch(address, in_use)]
    _watching[0].start()


def ends_with_head() -> None:
    """Tells the watch that the cluster's state is lost with its head, which has no store outside."""
    if _watching:
        _watching[0].ends_with_head = True


def cluster_error(error: Exception) -> Exception:
    """Returns a ClusterLostError if the job failed because its cluster is gone, or else the error itself."""
    return _watching[0].error() if _watching and _watching[0].is_gone() else error


def say_last(text: str) -> None:
    """Prints the line with which a job ends, unless its watch has printed it."""
    if not _told.is_set():
        _told.set()
        say_error(text)
