"""`jobs/preflight.py` on a local cluster with a head and two nodes: with three faults at once, and without any.

The whole run takes minutes: .venv/bin/python -m pytest -m long tests/end_to_end/test_preflight.py
"""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.config.preflight import SUBJECTS
from pipeline.runtime.local_cluster import LocalNodes, words_of
from tests.support.checkout import CHECKOUT
from tests.support.forked_jobs import run_forked_job
from tests.support.past_run import copy_past_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ODD_PACKAGE, ODD_VERSION = "boto3", "0.0.1"
DISK_BYTES = 24 * 2**20
"""Enough for the run's inputs, and too little for what each node writes."""
RUN_S, STOPPED_S = 0.1, 0.3
"""A slowed node's workers run for the first and are stopped for the second, in turn."""


@dataclass(frozen=True)
class Preflight:
    """The job's output and exit code."""

    exit_code: int
    result: dict[str, Any]
    shown: str

    def odd(self) -> list[tuple[str, str, str]]:
        """Subject, check and verdict of all findings that are not OK."""
        return [(each["subject"], each["what"], each["verdict"]) for each in self.findings if each["verdict"] != "ok"]

    @property
    def findings(self) -> list[dict[str, Any]]:
        findings: list[dict[str, Any]] = self.result["findings"]
        return findings

    def of(self, subject: str) -> list[dict[str, Any]]:
        """The findings of a subject that are not OK."""
        return [each for each in self.findings if each["subject"] == subject and each["verdict"] != "ok"]


class Cluster:
    """A head, a node, and a node with another version of a package.

    Attributes:
        can_fill_a_disk: False if this user may not mount a file system.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.can_fill_a_disk = folder, False
        self.nodes = LocalNodes(folder / "nodes", 1, {"PYTHONPATH": str(CHECKOUT)})
        metadata = folder / "shim" / f"{ODD_PACKAGE}-{ODD_VERSION}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {ODD_PACKAGE}\nVersion: {ODD_VERSION}\n")
        usual = self.nodes.environment
        self.nodes.environment = usual | {"PYTHONPATH": f"{folder / 'shim'}:{CHECKOUT}"}
        self.nodes.add_node()
        self.nodes.environment = usual

    @property
    def odd_node(self) -> psutil.Process:
        return self.nodes.nodes[1]

    def exchange_the_odd_node(self) -> None:
        """Ends it, and starts one that is like the other."""
        self.nodes.kill_node(1)
        self.nodes.add_node()

    def preflight(self, root: Path, *words: str) -> Preflight:
        command = ["jobs/preflight.py", "--recipe", str(root / "recipe.py"), "--root", str(root), "--json"]
        command += ["--wait-minutes", "2", *words]
        done = run_forked_job(command, self.nodes.environment, CHECKOUT)
        assert done.stdout, done.stderr
        return Preflight(done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr)


def inputs_in(folder: Path) -> Path:
    """Copies recipe and inputs of the small run, without what was trained."""
    copy_past_run(folder)
    for trained in ("stage1", "stage2", "ledger"):
        shutil.rmtree(folder / "past" / trained)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("preflight"))
    yield cluster
    cluster.nodes.stop()


@pytest.fixture(scope="module")
def faulty(cluster: Cluster) -> Preflight:
    """One of the two nodes has another version and is slow, and the shared folder is full."""
    disk = cluster.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    cluster.can_fill_a_disk = subprocess.run(mount, check=False).returncode == 0
    try:
        only = [word for name in ("nodes", "versions", "devices", "storage") for word in ("--only", name)]
        root = inputs_in(disk / "root")
        with slowed(cluster):
            for _ in range(8):
                found = cluster.preflight(root, *only)
                if len(found.of("versions")) == len(found.of("devices")) == 1:
                    break  # otherwise the slow node was late with an answer, on a machine with much other work
            return found
    finally:
        if cluster.can_fill_a_disk:
            subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="module")
def healthy(cluster: Cluster) -> tuple[Preflight, set[str]]:
    """The whole preflight for the first stage on two nodes that are alike, and the files that it left."""
    cluster.exchange_the_odd_node()
    root = inputs_in(cluster.folder / "healthy")
    before = set(root.rglob("*"))
    found = cluster.preflight(root, "--stage", "1")
    return found, {path.relative_to(root / "past").as_posix() for path in set(root.rglob("*")) - before}


@contextmanager
def slowed(cluster: Cluster) -> Iterator[None]:
    """Stops all workers of the odd node most of the time. Its raylet answers, or Ray would hold the node for lost."""
    ended = threading.Event()

    def alternate() -> None:
        while not ended.is_set():
            _send(cluster.odd_node, signal.SIGSTOP)
            time.sleep(STOPPED_S)
            _send(cluster.odd_node, signal.SIGCONT)
            time.sleep(RUN_S)

    thread = threading.Thread(target=alternate, name="slows a node")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _send(node: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        for process in node.children(recursive=True):
            words = words_of(process)
            if "default_worker.py" in words or (words.startswith("ray::") and "Agent" not in words):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)


def test_a_node_with_another_version_is_named(faulty: Preflight) -> None:
    (found,) = faulty.of("versions")
    assert found["verdict"] == "failed" and found["figures"]["here"] == {ODD_PACKAGE: ODD_VERSION}
    assert faulty.exit_code == 8 and "not ready" in faulty.shown


def test_a_full_disk_is_found_by_the_nodes_that_write(cluster: Cluster, faulty: Preflight) -> None:
    if not cluster.can_fill_a_disk:
        pytest.skip("only root may mount a small file system")
    failed = [each for each in faulty.of("storage") if "No space left on device" in each["measured"]]
    assert failed and all(each["remedy"] for each in failed), faulty.shown


def test_a_slow_node_is_named_and_it_is_the_one_that_was_slowed(faulty: Preflight) -> None:
    (slow,) = faulty.of("devices")
    (other,) = faulty.of("versions")
    assert slow["what"] == "speed of a processor, sha256"
    assert slow["verdict"] in ("warning", "failed"), "how slow the other is depends on what else runs here"
    assert slow["node"] == other["node"], "both faults were put into the same node"


@pytest.mark.long
def test_two_alike_nodes_are_ready(healthy: tuple[Preflight, set[str]]) -> None:
    found, _ = healthy
    failed = [each for each in found.odd() if each[2] == "failed"]
    assert found.exit_code == 0 and not failed, found.shown
    assert {each["subject"] for each in found.findings} == set(SUBJECTS)
    steps = {each["what"] for each in found.findings if each["subject"] == "steps"}
    assert any("text_to_image + captioning + interleaved" in what for what in steps), "one whole step"
    for kind in ("text_to_image", "captioning", "interleaved"):
        assert f"stage 1: {kind}, 1 micro-step, twice" in steps
    assert "ready" in found.shown.splitlines()[-1] and found.result["seconds"] < 600


@pytest.mark.long
def test_links_between_the_nodes_were_measured(healthy: tuple[Preflight, set[str]]) -> None:
    figures = {each["what"]: each["figures"] for each in healthy[0].findings if each["subject"] == "network"}
    for operation in ("all-reduce", "all-gather"):
        assert figures[f"{operation} between nodes, a node"]["bytes_per_s"] > 1e6


@pytest.mark.long
def test_it_leaves_only_what_training_would_make_anew(healthy: tuple[Preflight, set[str]]) -> None:
    _, left = healthy
    rows = {"pages.arrow", "pages.lengths.arrow", "shapes.arrow", "shapes.lengths.arrow", "shapes.held_out.arrow"}
    assert left == {"stage1", "stage1/rows"} | {f"stage1/rows/{name}" for name in rows}


ASKING = """
import json, time
from functools import partial
import ray
from pipeline.preflight.nodes import ask, cluster_nodes
ray.init(log_to_driver=False, logging_level="ERROR")
head, first, second = cluster_nodes()
answers = ask({head: partial(time.sleep, 60), first: partial(int, "x"), second: partial(int, "7")}, limit_s=15)
names = {head: "head", first: "first", second: "second"}
print(json.dumps([{names[node]: said for node, said in each.items()} for each in (answers.values, answers.errors)]))
"""


@pytest.mark.long
def test_a_probe_that_hangs_and_one_that_fails_do_not_hide_a_third(cluster: Cluster, healthy: object) -> None:
    words = [sys.executable, "-c", ASKING]
    asked = subprocess.run(
        words, env=cluster.nodes.environment, cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    values, errors = json.loads(asked.stdout.splitlines()[-1])
    assert values == {"second": 7} and errors.keys() == {"head", "first"}
    assert errors["head"].startswith("no answer within") and errors["first"].startswith("ValueError: invalid literal")
