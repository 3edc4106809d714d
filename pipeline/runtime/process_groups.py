"""Ends process groups together with this process, however it ends."""

import subprocess
from collections.abc import Sequence

_watchers: list[subprocess.Popen[bytes]] = []
"""The shells that wait for the end of this process. Their input ends with it."""
WATCH = """
read -r _
for leader; do kill -s KILL -- "-$leader" 2>/dev/null; done
sessions=$(IFS=,; echo "$*")
looks=50
while left=$(ps -o pid= -s "$sessions" 2>/dev/null) && [ "$looks" -gt 0 ]; do
  sleep 0.2
  looks=$((looks - 1))
done
[ -z "$left" ] || kill -s KILL $left
"""
"""The other processes of the leaders' sessions get ten seconds to end by themselves. `ps` is of procps; without it they
are left alone."""


def end_with_this_process(leaders: Sequence[int]) -> None:
    """Has the process groups of some sessions' leaders killed once this process has ended, by a shell that waits for
    that, and later what is left of the sessions.

    The kernel ends only children with their parent (prctl(2), PR_SET_PDEATHSIG): Ray's agents, which are its raylet's
    children, would stay for a minute. Ray's workers, each in a group of its own, end by themselves. But now and then
    one hangs in the destructors of its libraries (Ray 2.60.0), for ever.

    Args:
        leaders: the leaders' process ids.
    """
    words = ["/bin/sh", "-c", WATCH, "sh", *map(str, leaders)]
    quiet = subprocess.DEVNULL
    _watchers.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True))
