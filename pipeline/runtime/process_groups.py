"""Ends process groups together with this process, however it ends."""

import subprocess
from collections.abc import Sequence

_watchers: list[subprocess.Popen[bytes]] = []
"""The shells that wait for the end of this process. Their input ends with it."""
WATCH = """
looks=$1; shift
read -r _
for leader; do kill -s KILL -- "-$leader" 2>/dev/null; done
sessions=$(IFS=,; echo "$*")
while left=$(ps -o pid= -s "$sessions" 2>/dev/null) && [ "$looks" -gt 0 ]; do
  sleep 0.2
  looks=$((looks - 1))
done
[ -z "$left" ] || kill -s KILL $left
"""
"""Without `ps`, of procps, what is left of the sessions is left alone."""
LOOKS_A_SECOND = 5


def end_with_this_process(leaders: Sequence[int], grace_s: int = 10) -> None:
    """Has the process groups of some sessions' leaders killed once this process has ended, by a shell that waits for
    that, and later what is left of the sessions.

    The kernel ends only children with their parent (prctl(2), PR_SET_PDEATHSIG): Ray's agents, which are its raylet's
    children, would stay for a minute. Ray's workers, each in a group of its own, end by themselves. But now and then
    one hangs in the destructors of its libraries (Ray 2.60.0), for ever.

    Args:
        leaders: the leaders' process ids.
        grace_s: seconds that the other processes of their sessions get to end by themselves.
    """
    words = ["/bin/sh", "-c", WATCH, "sh", str(grace_s * LOOKS_A_SECOND), *map(str, leaders)]
    quiet = subprocess.DEVNULL
    _watchers.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True))
