"""Clusters that are not there, or go away: one line, the right exit code, and nothing is left behind."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.checkpoints.manifest import complete_checkpoints, write_manifest
from tests.support.checkout import CHECKOUT
from tests.support.fault_matrix import FAULTS, cells, nothing_left
from tests.support.forked_jobs import run_forked_job
from tests.support.past_run import copy_past_run
from tests.support.ports import free_port
from tokenization.files.storage import open_storage


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in its second stage."""
    folder = tmp_path_factory.mktemp("past") / "copy"
    copy_past_run(folder)
    return folder


def run(job: str, past: Path, address: str) -> subprocess.CompletedProcess[str]:
    """Runs a job that has something to do."""
    run = past / "past"
    if job == "train_lm":
        shutil.rmtree(run / "lm")
    if job == "generate":
        for checkpoint in complete_checkpoints(str(run / "stage2" / "checkpoints"), []):
            finished = replace(checkpoint.manifest, finished=True)
            write_manifest(open_storage(run / "stage2" / "checkpoints"), checkpoint.name, finished)
    words = [f"jobs/{job}.py", "--recipe", str(past / "recipe.py"), "--root", str(past)]
    return run_forked_job(words, os.environ | {"RAY_ADDRESS": address}, CHECKOUT)


@pytest.mark.slow
@pytest.mark.parametrize("job", cells("no cluster"))
def test_where_no_cluster_is_a_job_says_so(past: Path, job: str) -> None:
    with nothing_left(past):
        FAULTS["no cluster"].check(run(job, past, f"127.0.0.1:{free_port()}"))
