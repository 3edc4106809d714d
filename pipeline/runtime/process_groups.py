"""Ends process groups together with this process, however it ends."""

import subprocess
from collections.abc import Sequence

_watchers: list[subprocess.Popen[bytes]] = []
"""The shells that wait for the end of this process. Their input ends with it."""
WATCH = 'read -r _; kill -s KILL -- "$@" 2>/dev/null'


def end_with_this_process(groups: Sequence[int]) -> None:
    """Has process groups killed once this process has ended, by a shell that waits for that.

    The kernel ends only children with their parent (prctl(2), PR_SET_PDEATHSIG): Ray's agents, which are its raylet's
    children, would stay for a minute.

    Args:
        groups: ids of the groups, which are the process ids of their leaders.
    """
    words = ["/bin/sh", "-c", WATCH, "sh", *(f"-{group}" for group in groups)]
    quiet = subprocess.DEVNULL
    _watchers.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True))
