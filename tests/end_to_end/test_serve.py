"""A server on Ray Serve, as users start it: a killed replica and a new checkpoint cost no request, its figures reach
Prometheus, and nothing is left behind."""

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from safetensors.torch import load_file, save_file

from pipeline.export.export import SOURCE_FILE
from pipeline.serving.served_model import SERVING_FILE
from tests.support.checkout import CHECKOUT
from tests.support.forked_jobs import start_job
from tests.support.ports import free_port
from tests.support.prometheus import Prometheus
from tests.support.small_server import small_served

pytestmark = pytest.mark.long
READY_S = 180


class Job:
    """`jobs/serve.py` on a Ray of its own."""

    def __init__(self, folder: Path, exported: Path) -> None:
        self.port, self.log = free_port(), folder / "log"
        words = ["jobs/serve.py", "--checkpoint", str(exported), "--port", str(self.port), "--batch-size", "4"]
        words += ["--follow-s", "1", "--max-outstanding", "16", "--requests-per-minute", "0", "--root", str(folder)]
        environment = os.environ | {"RAY_metrics_report_interval_ms": "2000", "RAY_ADDRESS": "local"}
        self.process = start_job(words, environment, CHECKOUT, self.log, self.log)
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

    def replica(self) -> psutil.Process:
        found = [each for each in self.tree() if "ServeReplica:mars:Replica" in " ".join(each.cmdline())]
        return next(iter(found))

    def tree(self) -> list[psutil.Process]:
        assert self.process.pid is not None
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found


class Visitors:
    """Clients that ask for the same pictures again and again while something happens."""

    def __init__(self, job: Job, count: int = 3) -> None:
        self.job, self.errors, self.pictures = job, list[str](), list[tuple[int, tuple[int, ...]]]()
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

    def _visit(self, seed: int) -> None:
        while not self._ended.is_set():
            try:
                self.pictures.append((seed, tuple(self.job.picture(seed))))
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


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Iterator[Job]:
    running = Job(tmp_path_factory.mktemp("job"), exported)
    yield running
    if running.process.is_alive():
        running.process.kill()


def test_a_killed_replica_costs_no_request(job: Job) -> None:
    alone = [tuple(job.picture(seed)) for seed in range(3)]
    before = job.replica().pid
    with Visitors(job) as visitors:
        time.sleep(1)
        os.kill(before, signal.SIGKILL)
        deadline, count = time.monotonic() + READY_S, len(visitors.pictures)
        while len(visitors.pictures) < count + 20:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert visitors.errors == [] and job.replica().pid != before
    assert all(codes == alone[seed] for seed, codes in visitors.pictures)


def test_a_new_checkpoint_is_taken_over_without_a_failed_request(job: Job, exported: Path) -> None:
    before = [tuple(job.picture(seed)) for seed in range(3)]
    with Visitors(job) as visitors:
        weights = load_file(exported / "model.safetensors")
        save_file({name: -weight for name, weight in weights.items()}, exported / "new", {"format": "pt"})
        (exported / "new").replace(exported / "model.safetensors")
        (exported / SOURCE_FILE).write_text("step-00000099-abcdefgh")
        job.wait_for("takes over checkpoint step-00000099-abcdefgh")
        deadline = time.monotonic() + READY_S
        while all(codes == before[seed] for seed, codes in visitors.pictures[-6:]):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert visitors.errors == []
    kinds = [codes == before[seed] for seed, codes in visitors.pictures]
    assert kinds == sorted(kinds, reverse=True), "once the new one answers, the old one does no more"


def test_every_query_of_the_dashboard_finds_the_server_in_prometheus(job: Job, tmp_path: Path) -> None:
    prometheus = Prometheus(tmp_path / "prometheus", _metrics_port(job))
    try:
        with Visitors(job):
            time.sleep(20)
        dashboard = json.loads((CHECKOUT / "cluster" / "grafana" / "mars.json").read_text())
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        serving = [query for query in queries if "ray_mars_serve" in query]
        assert len(serving) >= 8
        for query in serving:
            found = prometheus.values(query.replace("[5m]", "[10s]"))
            assert found or "refused" in query, f"{query}: nothing; {prometheus.names('ray_mars_')}"
    finally:
        prometheus.stop()


def test_sigterm_ends_it_after_the_requests_under_way_and_leaves_nothing_behind(job: Job) -> None:
    expected, tree = job.picture(1), job.tree()
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(job.picture(1)))
    thread.start()
    time.sleep(0.05)
    assert job.process.pid is not None
    os.kill(job.process.pid, signal.SIGTERM)
    thread.join()
    job.process.join(90)
    assert job.process.exitcode == 0 and made == [expected], job.log.read_text()
    assert not psutil.wait_procs(tree, timeout=30)[1]
    assert not re.search(r"red circle|Traceback", job.log.read_text())


def _metrics_port(job: Job) -> int:
    """The port at which the agent of the job's Ray shows metrics."""
    agents = [each for each in job.tree() if "dashboard/agent.py" in " ".join(each.cmdline())]
    words = " ".join(agents[0].cmdline())
    found = re.search(r"--metrics-export-port=(\d+)", words)
    assert found, words
    return int(found[1])
