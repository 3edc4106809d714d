"""A job does not wait in silence for a cluster that is gone, and is not ended by a short pause of its head."""

import socket
import subprocess
import sys
import time

import pytest

from pipeline.errors import ClusterLostError
from pipeline.runtime import cluster_watch
from pipeline.runtime.cluster_watch import ClusterWatch
from tests.support.checkout import CHECKOUT
from tests.support.ports import free_port

JOB = """
import sys, threading, time
from pipeline.errors import ClusterLostError
from pipeline.runtime import cluster_watch
cluster_watch.POLL_S, cluster_watch.SAY_AFTER_S, cluster_watch.LOST_AFTER_S, cluster_watch.UNWIND_S = 0.1, 0.2, 0.5, 0.5
cluster_watch.watch_cluster(sys.argv[1], lambda: True)
try:
    time.sleep(60)
except ClusterLostError:
    if sys.argv[2] == "hangs":
        time.sleep(60)
    print("unwound")
    raise SystemExit(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("does", ["unwinds", "hangs"])
def test_a_job_ends_whatever_it_waits_in_when_its_cluster_is_gone(does: str) -> None:
    words = [sys.executable, "-c", JOB, f"127.0.0.1:{free_port()}", does]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "does not answer; the job waits" in done.stderr
    assert ("unwound" in done.stdout) is (does == "unwinds")
    assert ("has ended or cannot be reached any more" in done.stderr) is (does == "hangs")


def test_a_job_that_is_in_a_destructor_then_ends_in_one_line_as_well() -> None:
    job = JOB.replace("try:", "class Slow:\n    def __del__(self):\n        time.sleep(2)\n\ntry:\n    Slow()")
    job = job.replace("UNWIND_S = 0.1, 0.2, 0.5, 0.5", "UNWIND_S = 0.1, 0.2, 0.5, 20.0")
    words = [sys.executable, "-c", job, f"127.0.0.1:{free_port()}", "unwinds"]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 3 and "unwound" in done.stdout, "the error is not lost"
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr


def test_a_job_does_not_wait_for_another_head_where_the_state_went_with_the_first() -> None:
    """Ray's client would end the process from C++ when it meets one."""
    job = JOB.replace("LOST_AFTER_S", "REFUSED_AFTER_S").replace("try:", "cluster_watch.ends_with_head()\ntry:")
    words = [sys.executable, "-c", job, f"127.0.0.1:{free_port()}", "unwinds"]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 3 and "unwound" in done.stdout, "long before the 30 s of LOST_AFTER_S"


def test_a_head_that_answers_again_ends_no_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster_watch, "POLL_S", 0.05)
    monkeypatch.setattr(cluster_watch, "SAY_AFTER_S", 0.1)
    monkeypatch.setattr(cluster_watch, "LOST_AFTER_S", 5.0)
    port, in_use = free_port(), [True]
    watch = ClusterWatch(f"127.0.0.1:{port}", lambda: in_use[0])
    watch.start()
    time.sleep(0.5)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen(99)
        time.sleep(0.3)
        in_use[0] = False
    said = capsys.readouterr().err
    assert said.count("does not answer") == 1 and said.count("answers again") == 1
    assert isinstance(watch.error(), ClusterLostError) and str(port) in str(watch.error())
