"""Several jobs at once on one machine, each with a Ray of its own or all on one cluster, do not disturb each other."""

import os
import random
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.support.checkout import CHECKOUT
from tests.support.fault_matrix import nothing_left
from tests.support.forked_jobs import start_job
from tests.support.past_run import copy_past_run
from tests.support.small_ray import small_ray

JOBS = ("tokenize", "inspect_tokens", "train_lm")
LATEST_S = 4.0
"""Latest start of a job after the first one, s: so long a small job takes."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with small_ray() as cluster:
        yield cluster


def prepare(job: str, folder: Path) -> list[str]:
    """Makes a run in which the job has something to do. Returns its words."""
    run = copy_past_run(folder)
    if job == "tokenize":
        (run / "tokens" / "00000.parquet").unlink()
    if job == "train_lm":
        for path in (run / "lm").iterdir():
            path.unlink()
    return [f"jobs/{job}.py", "--recipe", str(folder / "recipe.py"), "--root", str(folder)]


def run_at_once(jobs: list[str], folder: Path, addresses: list[str], draw: random.Random) -> None:
    """Starts the jobs at random moments, each at its address (`local`: its own Ray), and checks that all succeed."""
    folder.mkdir(exist_ok=True)
    words = [prepare(job, folder / f"{number}") for number, job in enumerate(jobs)]
    logs = [folder / f"{number}.log" for number in range(len(jobs))]
    started: list[BaseProcess] = []
    with nothing_left(folder):
        for each, log, address in zip(words, logs, addresses, strict=True):
            started.append(start_job(each, os.environ | {"RAY_ADDRESS": address}, CHECKOUT, log, log))
            time.sleep(draw.uniform(0, LATEST_S))
        for process in started:
            process.join(300)
    for job, process, log, address in zip(jobs, started, logs, addresses, strict=True):
        said = log.read_text()
        assert process.exitcode == 0 and "Traceback" not in said, f"{job}: {process.exitcode}\n{said}"
        where = "Ray: started here, for this job" if address == "local" else f"Ray: joined the cluster at {address}"
        assert where in said, said


@pytest.mark.slow
def test_jobs_with_a_ray_of_their_own_run_beside_jobs_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    jobs = ["tokenize", "train_lm", "inspect_tokens"]
    run_at_once(jobs, tmp_path / "runs", [cluster.address, "local", "local"], random.Random(0))


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 3, 4])
def test_any_number_of_jobs_that_start_and_end_at_random_succeed(cluster: Cluster, tmp_path: Path, count: int) -> None:
    draw = random.Random(count)
    for number in range(4):
        jobs = [draw.choice(JOBS) for _ in range(count)]
        where = draw.choice([["local"] * count, [cluster.address] * count, [*["local", cluster.address] * 2][:count]])
        run_at_once(jobs, tmp_path / f"{number}", where, draw)
