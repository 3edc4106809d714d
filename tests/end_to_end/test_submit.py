"""jobs/submit.py on a real cluster with token authentication: a user can wait with it for days."""

import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from cluster.job_client import Ended
from cluster.submission import exit_code, may_go_on
from pipeline.errors import ExitCode
from tests.support.checkout import CHECKOUT
from tests.support.fake_cluster import FakeCluster
from tests.support.tcp_proxy import TcpProxy

LINES = 24


class Submission:
    """`jobs/submit.py` in a process of its own."""

    def __init__(self, cluster: FakeCluster, folder: Path, *words: str, address: str = "") -> None:
        self.output = folder / f"{time.monotonic_ns()}.txt"
        command = [sys.executable, "-P", "jobs/submit.py", "--address", address or cluster.dashboard, "--pause-s", "0"]
        self.process = subprocess.Popen(
            [*command, *words],
            cwd=CHECKOUT,
            env=cluster.environment,
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
            # What starts the tests in the background has them ignore Ctrl-C, and their children too.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 120
        while text not in self.output.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.2)

    def code(self) -> int:
        return self.process.wait(timeout=180)

    def numbers(self) -> list[int]:
        return [int(found) for found in re.findall(r"^line (\d+)$", self.output.read_text(), re.MULTILINE)]


def counting(code: int) -> list[str]:
    return ["sh", "-c", f"for i in $(seq {LINES}); do echo line $i; sleep 0.5; done; exit {code}"]


@pytest.fixture(scope="module")
def ended(
    aws_on_fake_nodes: FakeCluster, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, str, list[int]]]:
    """The ends of several submissions that began at once: exit code, output, numbers of the lines shown."""
    cluster, folder = aws_on_fake_nodes, tmp_path_factory.mktemp("submit")
    proxy = TcpProxy(int(cluster.dashboard.rpartition(":")[2]))
    (folder / "code").mkdir()
    job = folder / "code" / "job.sh"
    job.write_text(f'#!/bin/sh\necho "$GREETING from $(basename "$0")"\necho x >> {folder}/tries\n'
                   f"[ $(wc -l < {folder}/tries) = 3 ] && exit 4\nexit 7\n")  # fmt: skip
    job.chmod(0o755)
    own = ["--working-dir", "", "--resubmissions", "1", "--"]
    submissions = {
        "cut": Submission(cluster, folder, "--working-dir", "", "--", *counting(3), address=proxy.url),
        "left": Submission(cluster, folder, "--working-dir", "", "--name", "left", "--", *counting(6)),
        "preempted": Submission(
            cluster, folder, "--working-dir", str(job.parent), "--env", "GREETING=hello", "--resubmissions", "0", "--",
            "./job.sh",
        ),
        "broken": Submission(cluster, folder, *own, "sh", "-c", f"echo x >> {folder}/broken; exit 1"),
        "killed": Submission(cluster, folder, *own, "sh", "-c", f"echo x >> {folder}/killed; kill -9 $$"),
    }  # fmt: skip
    submissions["cut"].wait_for("line 3\n")
    proxy.cut()
    submissions["cut"].wait_for("no answer from")
    submissions["left"].wait_for("line 3\n")
    submissions["left"].process.send_signal(signal.SIGINT)
    time.sleep(2)
    proxy.mend()
    submissions["again"] = Submission(cluster, folder, "--attach", "left-1")
    submissions["unknown"] = Submission(cluster, folder, "--attach", "of-another-head")
    result = {name: (each.code(), each.output.read_text(), each.numbers()) for name, each in submissions.items()}
    for name in ("tries", "broken", "killed"):
        result[name + " file"] = (len((folder / name).read_text().splitlines()), "", [])
    return result


def test_a_cut_connection_costs_neither_the_job_nor_a_line_of_its_output(
    ended: dict[str, tuple[int, str, list[int]]],
) -> None:
    code, output, numbers = ended["cut"]
    assert code == 3, output
    assert numbers == list(range(1, LINES + 1)), output
    assert re.search(r"sh-\S+-1 was running at .* and may run on; trying again", output), output
    assert "the job runs on" not in output and "again after" in output


def test_ctrl_c_leaves_the_job_running_and_says_how_to_wait_for_it_again(
    ended: dict[str, tuple[int, str, list[int]]],
) -> None:
    code, output, numbers = ended["left"]
    assert code == ExitCode.OTHER and len(numbers) < LINES
    assert "--attach left-1" in output and re.search(r"ray job stop --address \S+ left-1", output)
    code, output, numbers = ended["again"]
    assert code == 6 and numbers == list(range(1, LINES + 1)), output


def test_a_preempted_job_is_submitted_again_until_it_ends_and_its_own_code_is_returned(
    ended: dict[str, tuple[int, str, list[int]]],
) -> None:
    code, output, _ = ended["preempted"]
    assert code == 4, output
    assert ended["tries file"][0] == 3 and output.count("hello from job.sh") == 3


def test_a_job_that_breaks_off_again_and_again_is_given_up(ended: dict[str, tuple[int, str, list[int]]]) -> None:
    for name, expected in (("broken", 1), ("killed", 137)):
        code, output, _ = ended[name]
        assert code == expected, output
        assert ended[f"{name} file"][0] == 2, output


def test_a_job_that_went_with_its_cluster_is_told_from_one_that_runs_on(
    ended: dict[str, tuple[int, str, list[int]]],
) -> None:
    code, output, _ = ended["unknown"]
    assert code == ExitCode.OTHER and "of-another-head is lost" in output and "ended:" not in output
    assert "knows no job 'of-another-head'" in output and "how it ended is not known" in output


def test_without_the_token_the_error_says_what_to_set(aws_on_fake_nodes: FakeCluster, tmp_path: Path) -> None:
    environment = {
        k: v for k, v in aws_on_fake_nodes.environment.items() if k not in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    }
    words = [sys.executable, "-P", "jobs/submit.py", "--address", aws_on_fake_nodes.dashboard, "--", "true"]
    environment |= {"HOME": str(tmp_path)}
    done = subprocess.run(
        words, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == ExitCode.USAGE and "RAY_AUTH_MODE=token" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("ended", "goes_on", "code"),
    [
        (Ended("SUCCEEDED", 0), False, 0),
        (Ended("FAILED", 2), False, 2),
        (Ended("FAILED", 5), False, 5),
        (Ended("FAILED", 6), False, 6),
        (Ended("FAILED", 7), True, 7),
        (Ended("FAILED", 1), True, 1),
        (Ended("FAILED", -9), True, 137),
        (Ended("FAILED", None), True, 1),
        (Ended("LOST", None), True, 1),
        (Ended("STOPPED", None), False, 1),
    ],
    ids=str,
)
def test_only_what_a_resume_can_mend_is_submitted_again(ended: Ended, goes_on: bool, code: int) -> None:
    assert (may_go_on(ended), exit_code(ended)) == (goes_on, code)
