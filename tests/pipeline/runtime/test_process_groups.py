"""Process groups that a job has started end with it, also when it is killed."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

STARTS = """
import subprocess, sys, time
from pipeline.runtime.process_groups import end_with_this_process

ended = subprocess.Popen(["true"], start_new_session=True)
ended.wait()
other = "import subprocess; subprocess.Popen(['sleep', '60'], process_group=0)"
group = subprocess.Popen(["sh", "-c", f'{sys.executable} -c "{other}"; sleep 60 & wait'], start_new_session=True)
end_with_this_process([ended.pid, group.pid], grace_s=1)
print(group.pid, flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_a_group_and_its_session_end_with_the_process_that_started_it(killed: bool) -> None:
    words, pipe = [sys.executable, "-c", STARTS], subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        leader, deadline = int(process.stdout.readline()), time.monotonic() + 20
        while len(session := in_session(leader)) < 3:  # the other group's leader has no parent any more
            assert time.monotonic() < deadline, session
            time.sleep(0.1)
        if killed:
            process.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs(session, timeout=30)[1]


def in_session(leader: int) -> list[psutil.Process]:
    return [each for each in psutil.process_iter() if os.getsid(each.pid) == leader]
