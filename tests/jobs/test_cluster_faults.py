"""Clusters that are not there, or go away: one line, the right exit code, and nothing is left behind."""

import os
import subprocess
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.fault_matrix import FAULTS, cells, nothing_left, some_cells, words_of
from tests.support.forked_jobs import run_forked_job, start_job
from tests.support.past_run import copy_past_run
from tests.support.ports import free_port
from tests.support.small_ray import small_ray


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in its second stage."""
    folder = tmp_path_factory.mktemp("past") / "copy"
    copy_past_run(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("job", some_cells("no cluster"))
def test_where_no_cluster_is_a_job_says_so(past: Path, job: str) -> None:
    with nothing_left(past):
        environment = os.environ | {"RAY_ADDRESS": f"127.0.0.1:{free_port()}"}
        FAULTS["no cluster"].check(run_forked_job(words_of(job, past), environment, CHECKOUT))


def joined(log: Path) -> bool:
    return log.exists() and "Ray: joined the cluster at" in log.read_text()


def lose_the_head(jobs: list[str], folder: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """Starts the jobs on one cluster, kills all of it when all have joined, and returns how they ended."""
    started: dict[str, BaseProcess] = {}
    try:
        with small_ray() as cluster:
            for job in jobs:
                copy_past_run(folder / job)
                log = folder / f"{job}.log"
                words = words_of(job, folder / job)
                started[job] = start_job(words, os.environ | {"RAY_ADDRESS": cluster.address}, CHECKOUT, log, log)
            deadline = time.monotonic() + 120
            while not all(joined(folder / f"{job}.log") for job in jobs):
                assert time.monotonic() < deadline and all(each.is_alive() for each in started.values())
                time.sleep(0.1)
            head = cluster.head_node
            assert head is not None
            for each in [each for kind in head.all_processes.values() for each in kind]:
                each.process.kill()
            for process in started.values():
                process.join(90)
    finally:
        for process in started.values():
            process.kill()
    return {
        job: subprocess.CompletedProcess(job, process.exitcode or 0, "", (folder / f"{job}.log").read_text())
        for job, process in started.items()
    }


@pytest.mark.slow
def test_a_job_whose_cluster_ends_says_so_and_ends(tmp_path: Path) -> None:
    jobs = ["tokenize", "train_stage"]
    with nothing_left(tmp_path):
        for done in lose_the_head(jobs, tmp_path).values():
            FAULTS["lost cluster"].check(done)


@pytest.mark.long
@pytest.mark.parametrize("some", [0, 3, 6])
def test_every_job_whose_cluster_ends_says_so_and_ends(tmp_path: Path, some: int) -> None:
    with nothing_left(tmp_path):
        for done in lose_the_head(cells("lost cluster")[some : some + 3], tmp_path).values():
            FAULTS["lost cluster"].check(done)
