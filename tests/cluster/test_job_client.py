"""What is said of a submitted job is what the cluster has answered, and no more."""

import json
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

from cluster import job_client
from cluster.job_client import Ended, JobFollower, UnreachableError
from cluster.submission import SubmittedJob, outcome
from jobs import submit
from jobs.common.cli import run_job
from pipeline.errors import UsageError
from tests.support.ports import free_port, serve_in_thread

VERSION = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": ""}


class Dashboard(BaseHTTPRequestHandler):
    """Answers as Ray's dashboard does, and breaks off connections for the rest of `answers`.

    `answers` has the status and the content of the answers to come after those about versions.
    """

    answers: list[tuple[int, str]]

    def do_GET(self) -> None:
        if self.path.startswith("/api/version"):
            if self.answers:
                self._send(200, json.dumps(VERSION))
            return
        if self.answers:
            self._send(*self.answers.pop(0))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def _send(self, status: int, content: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, format: str, *words: object) -> None:
        """Says nothing."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_client, "REACH_S", 0.6)
    monkeypatch.setattr(job_client, "FIRST_PAUSE_S", 0.1)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)


@pytest.fixture
def dashboard() -> Iterator[ThreadingHTTPServer]:
    class Own(Dashboard):
        answers: list[tuple[int, str]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    serve_in_thread(server)
    yield server
    server.shutdown()


SUBMITTED = (200, json.dumps({"job_id": "job-1", "submission_id": "job-1"}))
PENDING = (200, json.dumps({"type": "SUBMISSION", "status": "PENDING", "entrypoint": "x"}))


@pytest.mark.parametrize(
    ("answers", "known", "may_exist"),
    [
        ([], "was not reached within 1 s (Failed to connect to Ray", False),
        ([(503, "")], "it is not known whether job-1 was submitted", True),
        ([SUBMITTED], "job-1 was submitted and may run on", True),
        ([SUBMITTED, PENDING], "job-1 was pending at ", True),
    ],
    ids=["not reached", "answer lost", "submitted", "seen"],
)
def test_a_cluster_that_goes_away_leaves_what_is_known_of_the_job(
    dashboard: ThreadingHTTPServer, answers: list[tuple[int, str]], known: str, may_exist: bool
) -> None:
    handler: type[Dashboard] = dashboard.RequestHandlerClass  # type: ignore[assignment]
    handler.answers += answers
    said: list[str] = []
    follower = JobFollower(f"http://127.0.0.1:{dashboard.server_port}", 0.6, said.append, said.append)
    with pytest.raises(UnreachableError) as ended:
        SubmittedJob(follower, ["x"], {}, "job").run(0, 0.0, said.append)
    assert known in str(ended.value) and ended.value.may_exist == may_exist
    if not may_exist:
        assert "nothing was submitted" in str(ended.value)
        assert not [line for line in said if "may run on" in line or "is on" in line]


def test_a_job_that_the_cluster_does_not_know_is_lost_and_has_not_failed(dashboard: ThreadingHTTPServer) -> None:
    handler: type[Dashboard] = dashboard.RequestHandlerClass  # type: ignore[assignment]
    handler.answers += [(404, "no such job"), SUBMITTED]
    said: list[str] = []
    follower = JobFollower(f"http://127.0.0.1:{dashboard.server_port}", 0.6, said.append, said.append)
    ended = SubmittedJob(follower, [], {}, "job", attached="job-0").run(0, 0.0, said.append)
    assert ended.status == job_client.LOST_JOB
    assert said == [
        f"submit: job-0 is lost: the cluster at {follower.address} knows no job 'job-0'; how it ended is not known"
    ]


@pytest.mark.parametrize(
    ("ended", "line"),
    [
        (Ended("FAILED", 3), "job ended: FAILED, exit code 3"),
        (Ended("FAILED", -9), "job ended: FAILED, exit code 137"),
        (Ended("FAILED", None, "no such folder"), "job ended: FAILED, without an exit code"),
    ],
)
def test_an_end_is_told_with_the_jobs_own_code_alone(ended: Ended, line: str) -> None:
    assert outcome("job", ended) == line


def test_a_server_that_is_no_dashboard_is_refused(dashboard: ThreadingHTTPServer, tmp_path: Path) -> None:
    handler: type[Dashboard] = dashboard.RequestHandlerClass  # type: ignore[assignment]
    handler.do_GET = lambda self: self._send(404, "")  # type: ignore[method-assign]
    follower = JobFollower(f"http://127.0.0.1:{dashboard.server_port}", 0.6, print, print)
    with pytest.raises(UsageError, match="is no dashboard of a Ray cluster"):
        follower.submit("job-1", "x", {})


def test_an_address_where_nothing_is_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--address", f"http://127.0.0.1:{free_port()}", "--working-dir", ""]
    with pytest.raises(SystemExit) as ended:
        run_job(submit.Options, partial(submit.main, command=["true"]), "", words)
    assert ended.value.code == 3
    *_, last = capsys.readouterr().err.splitlines()
    assert "was not reached within 1 s" in last and "nothing was submitted" in last and "--attach" not in last
