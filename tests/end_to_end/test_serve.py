"""A server on Ray Serve, as users start it: a killed replica and a new checkpoint cost no request, its figures reach
Prometheus, and nothing is left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from safetensors.torch import load_file, save

from pipeline.export.export import SOURCE_FILE
from pipeline.runtime.local_cluster import kill_tree
from pipeline.serving.served_model import SERVING_FILE
from tests.support.checkout import CHECKOUT
from tests.support.forked_jobs import start_job
from tests.support.ports import free_port, wait_until_open
from tests.support.prometheus import Prometheus
from tests.support.small_server import small_served

pytestmark = pytest.mark.long
READY_S = 180
REPLICA, FRONT, SERVE = "ServeReplica:mars:Replica", "ServeReplica:mars:Front", "ray::Serve"


class Job:
    """`jobs/serve.py` on a Ray cluster of its own, whose metrics Prometheus reads."""

    def __init__(self, folder: Path, exported: Path, *flags: str) -> None:
        address, metrics = free_port(), free_port()
        words = ["ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", f"--port={address}"]
        words += [f"--metrics-export-port={metrics}", '--system-config={"metrics_report_interval_ms": 2000}']
        words += [f"--dashboard-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
        own = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
        with (folder / "ray.log").open("w") as log:
            self.cluster = subprocess.Popen(words, env=own, stdout=log, stderr=log, start_new_session=True)
        wait_until_open(address, time.monotonic() + READY_S)
        self.prometheus = Prometheus(folder / "prometheus", metrics)
        self.port, self.log = free_port(), folder / "log"
        words = ["jobs/serve.py", "--checkpoint", str(exported), "--port", str(self.port), "--batch-size", "4"]
        words += [
            "--follow-s",
            "1",
            "--max-outstanding",
            "16",
            "--requests-per-minute",
            "0",
            "--root",
            str(folder),
            *flags,
        ]
        self.process = start_job(words, own | {"RAY_ADDRESS": f"127.0.0.1:{address}"}, CHECKOUT, self.log, self.log)
        self.url = f"http://127.0.0.1:{self.port}"
        self.wait_for("Ctrl-C ends it")
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + READY_S
        while words not in (self.log.read_text() if self.log.exists() else ""):
            assert time.monotonic() < deadline and self.process.is_alive(), self.log.read_text()
            time.sleep(0.2)

    def picture(self, seed: int) -> list[int]:
        more = {"seed": seed, "temperature": 1.0, "return_codes": True}
        made = self.client.images.generate(prompt="red circle", extra_body=more).data
        assert made is not None
        codes: list[int] = made[0].model_dump()["codes"]
        return codes

    def processes(self, name: str) -> list[psutil.Process]:
        """The cluster's processes with a name."""
        found = []
        for each in psutil.Process(self.cluster.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if name in " ".join(each.cmdline()):
                    found.append(each)
        return found

    def serving_processes(self) -> list[int]:
        """Ids of the front's and the replica's processes."""
        return sorted(each.pid for name in (REPLICA, FRONT) for each in self.processes(name))

    def health(self) -> dict[str, Any]:
        """What /health says, with the HTTP status."""
        answer = httpx.get(f"{self.url}/health", timeout=30)
        found: dict[str, Any] = answer.json() | {"code": answer.status_code}
        return found

    def wait_for_replicas(self, count: int) -> None:
        deadline = time.monotonic() + READY_S
        while len(self.processes(REPLICA)) != count:
            assert time.monotonic() < deadline, self.processes(REPLICA)
            time.sleep(0.5)

    def stop(self) -> None:
        self.prometheus.stop()
        if self.process.is_alive():
            self.process.kill()
        kill_tree(psutil.Process(self.cluster.pid))
        self.cluster.wait(timeout=60)


@dataclass(frozen=True)
class Visit:
    """A picture, and when it was asked for and had come."""

    seed: int
    codes: tuple[int, ...]
    began: float
    ended: float


class Visitors:
    """Clients that ask for the same pictures again and again while something happens."""

    def __init__(self, job: Job, count: int = 3) -> None:
        self.job, self.errors, self.visits = job, list[str](), list[Visit]()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(number,)) for number in range(count)]

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def pictures(self) -> list[tuple[int, tuple[int, ...]]]:
        return [(visit.seed, visit.codes) for visit in self.visits]

    @property
    def longest_s(self) -> float:
        return max(visit.ended - visit.began for visit in self.visits)

    def _visit(self, seed: int) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                codes = tuple(self.job.picture(seed))
                self.visits.append(Visit(seed, codes, began, time.monotonic()))
            except openai.OpenAIError as error:
                self.errors.append(repr(error))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    served = small_served(tmp_path_factory.mktemp("served") / "run")
    folder = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(served.export, folder)
    shutil.copytree(served.vqgan, folder / "vqgan")
    (folder / SERVING_FILE).write_text(json.dumps(served.to_json()))
    return folder


@pytest.fixture
def growing(tmp_path: Path, exported: Path) -> Iterator[Job]:
    running = Job(tmp_path, exported, "--replicas", "1", "--max-replicas", "2", "--cpus-per-replica", "1")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Iterator[Job]:
    running = Job(tmp_path_factory.mktemp("job"), exported)
    yield running
    running.stop()


def test_a_killed_replica_costs_no_request(job: Job) -> None:
    alone = [tuple(job.picture(seed)) for seed in range(3)]
    (before,) = (each.pid for each in job.processes(REPLICA))
    with Visitors(job) as visitors:
        time.sleep(1)
        os.kill(before, signal.SIGKILL)
        lost = job.health()
        deadline, count = time.monotonic() + READY_S, len(visitors.pictures)
        while len(visitors.pictures) < count + 20:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert visitors.errors == [] and before not in [each.pid for each in job.processes(REPLICA)]
    assert (lost["code"], lost["status"]) == (503, "no replica answers") and job.health()["code"] == 200
    assert all(codes == alone[seed] for seed, codes in visitors.pictures)


def replace_weights(exported: Path, content: bytes, source: str) -> None:
    (exported / "new").write_bytes(content)
    (exported / "new").replace(exported / "model.safetensors")
    (exported / SOURCE_FILE).write_text(source)


def test_a_checkpoint_that_cannot_be_loaded_costs_nothing(job: Job, exported: Path) -> None:
    """Its first bytes are copied, and the rest is missing."""
    whole, before = (exported / "model.safetensors").read_bytes(), job.serving_processes()
    alone = [tuple(job.picture(seed)) for seed in range(3)]
    with Visitors(job) as visitors:
        replace_weights(exported, whole[: len(whole) // 2], "step-00000098-abcdefgh")
        job.wait_for("checkpoint step-00000098-abcdefgh cannot be loaded")
        time.sleep(5)
    source = job.health()["checkpoint"]
    (exported / "model.safetensors").write_bytes(whole)
    (exported / SOURCE_FILE).write_text(source)
    assert visitors.errors == [] and visitors.longest_s < 5 and job.serving_processes() == before
    assert all(codes == alone[seed] for seed, codes in visitors.pictures)
    assert "step-00000098" not in source and job.process.is_alive()
    assert job.log.read_text().count("step-00000098-abcdefgh cannot be loaded") == 1


def test_a_new_checkpoint_is_taken_over_without_a_failed_request_or_a_pause(job: Job, exported: Path) -> None:
    before, processes = [tuple(job.picture(seed)) for seed in range(3)], job.serving_processes()
    with Visitors(job) as visitors:
        weights = load_file(exported / "model.safetensors")
        changed = save({name: -weight for name, weight in weights.items()}, {"format": "pt"})
        replace_weights(exported, changed, "step-00000099-abcdefgh")
        job.wait_for("takes over checkpoint step-00000099-abcdefgh")
        deadline = time.monotonic() + READY_S
        while all(codes == before[seed] for seed, codes in visitors.pictures[-6:]):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert visitors.errors == [] and visitors.longest_s < 5 and job.serving_processes() == processes
    assert job.health()["checkpoint"] == "step-00000099-abcdefgh"
    changed_at = min(visit.ended for visit in visitors.visits if visit.codes != before[visit.seed])
    later = [visit for visit in visitors.visits if visit.began > changed_at]
    assert later and all(visit.codes != before[visit.seed] for visit in later), "the old one gets no more to do"


def test_replicas_follow_the_queue(growing: Job) -> None:
    alone = [tuple(growing.picture(seed)) for seed in range(12)]
    assert len(growing.processes(REPLICA)) == 1
    with Visitors(growing, count=12) as visitors:
        growing.wait_for_replicas(2)
        time.sleep(10)  # both answer
    assert visitors.errors == [] and all(codes == alone[seed] for seed, codes in visitors.pictures)
    growing.wait_for_replicas(1)
    assert tuple(growing.picture(0)) == alone[0]


def test_every_query_of_the_dashboard_finds_the_server_in_prometheus(job: Job) -> None:
    with Visitors(job):
        time.sleep(20)
    dashboard = json.loads((CHECKOUT / "cluster" / "grafana" / "mars.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    serving = [query for query in queries if "ray_mars_serve" in query]
    assert len(serving) >= 8
    for query in serving:
        found = job.prometheus.values(query.replace("[5m]", "[10s]"))
        assert found or "refused" in query, f"{query}: nothing; {job.prometheus.names('ray_mars_')}"
    fill = job.prometheus.values("ray_mars_serve_batch_fill")
    assert 0 < max(fill) <= 1


def test_sigterm_ends_it_after_the_requests_under_way_and_leaves_nothing_behind(job: Job) -> None:
    expected = job.picture(1)
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(job.picture(1)))
    thread.start()
    time.sleep(0.05)
    assert job.process.pid is not None and job.processes(SERVE)
    os.kill(job.process.pid, signal.SIGTERM)
    thread.join()
    job.process.join(90)
    assert job.process.exitcode == 0 and made == [expected], job.log.read_text()
    deadline = time.monotonic() + 30
    while job.processes(SERVE):
        assert time.monotonic() < deadline, job.processes(SERVE)
        time.sleep(0.2)
    assert not re.search(r"red circle|Traceback", job.log.read_text())
