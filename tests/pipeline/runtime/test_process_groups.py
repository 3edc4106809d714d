"""Process groups that a job has started end with it, also when it is killed."""

import signal
import subprocess
import sys

import psutil
import pytest

STARTS = """
import subprocess, sys, time
from pipeline.runtime.process_groups import end_with_this_process

ended = subprocess.Popen(["true"], start_new_session=True)
ended.wait()
group = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True)
end_with_this_process([ended.pid, group.pid])
print(group.pid, flush=True)
if "wait" in sys.argv:
    time.sleep(60)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_group_ends_with_the_process_that_started_it(killed: bool) -> None:
    words = [sys.executable, "-c", STARTS, *(["wait"] if killed else [])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        leader = psutil.Process(int(process.stdout.readline()))
        group = [leader, *leader.children()]
        if killed:
            process.send_signal(signal.SIGKILL)
        process.wait(20)
    assert not psutil.wait_procs(group, timeout=10)[1]
