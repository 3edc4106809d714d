"""A job that is told to end does so within seconds, with a word, whatever its threads wait for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.ports import free_port

HANGING = """
import sys, threading, time
from dataclasses import dataclass
from jobs.common.cli import run_job
from pipeline.runtime import termination

termination.EXIT_S = 0.5

@dataclass(frozen=True)
class Options:
    json: bool = True

def job(options):
    threading.Thread(target=time.sleep, args=(60,)).start()
    if "wait" in sys.argv:
        print("ready", flush=True)
        time.sleep(60)
    return {"done": 1}

run_job(Options, job, "A job.", [])
"""
FETCHING = """
import time
from pipeline.data.loader import prefetch
from pipeline.data.shard_fetcher import ShardFetcher
from tokenization.files.storage import open_storage

fetcher = ShardFetcher(open_storage("s3://bucket/tokens"), ["sample_id"])
fetcher.ahead(["00000.parquet"])
steps = prefetch(lambda number: fetcher.take("00001.parquet") if number else number, 0, 2)
next(steps)
time.sleep(1.0)
print("waits", not fetcher._coming["00000.parquet"].ready(), flush=True)
"""


def start(script: str, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *words],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_job_whose_work_is_over_ends_though_a_thread_waits() -> None:
    """boto3's threads may wait for minutes for a service that does not answer."""
    out, err = (job := start(HANGING)).communicate(timeout=20)
    assert job.returncode == 0 and out == '{"done": 1}\n' and not err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 143, "ended by SIGTERM"), (signal.SIGINT, 1, "interrupted")]
)
def test_a_job_that_is_told_to_end_says_so_and_ends_though_a_thread_waits(number: int, code: int, said: str) -> None:
    job = start(HANGING, "wait")
    assert job.stdout and job.stdout.readline() == "ready\n"
    job.send_signal(number)
    _, err = job.communicate(timeout=20)
    assert job.returncode == code and err == f"{said}; run the same command again to go on\n"


@pytest.mark.slow
def test_reading_ahead_from_s3_keeps_no_process_alive(tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    process = start(FETCHING, AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}", MARS_OUTAGE_S="300", **keys)
    assert process.stdout and process.stdout.readline() == "waits True\n"
    told = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and time.monotonic() - told < 10, err
