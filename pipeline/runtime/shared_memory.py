"""Removes shared memory that a killed process would leave behind."""

import subprocess
from pathlib import Path

_watchers: list[subprocess.Popen[bytes]] = []
"""The shells that wait for the end of this process. Their input ends with it."""
WATCH = 'exec 3<&0; ( read -r _ <&3; rm -f -- "$1" ) &'
"""The shell that waits is no child of this process: what kills a whole tree of processes leaves it."""


def remove_with_this_process(path: Path) -> None:
    """Has a file removed once this process has ended, however it ends, by a shell that waits for that."""
    words, quiet = ["/bin/sh", "-c", WATCH, "sh", str(path)], subprocess.DEVNULL
    watcher = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)
    watcher.wait()
    _watchers.append(watcher)
