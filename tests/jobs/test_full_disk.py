"""A run whose disk is full: one line with the file and the room, and what was there stays."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.checkpoints.manifest import complete_checkpoints, write_manifest
from tests.support.checkout import CHECKOUT
from tests.support.fault_matrix import FAULTS, MORE_WORDS, OF_RAY_TRAIN, cells, nothing_left, some_cells
from tests.support.forked_jobs import run_forked_job
from tests.support.past_run import copy_past_run
from tests.support.small_disk import small_disk
from tokenization.files.storage import open_storage

SIZE = 16 * 2**20
FILLER = "filler"


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Path]:
    """A run whose two stages are finished, on a small file system of its own."""
    with small_disk(tmp_path / "disk", SIZE) as disk:
        copy_past_run(disk / "copy")
        yield disk / "copy"


def finish(past: Path) -> None:
    checkpoints = past / "past" / "stage2" / "checkpoints"
    for checkpoint in complete_checkpoints(str(checkpoints), []):
        write_manifest(open_storage(checkpoints), checkpoint.name, replace(checkpoint.manifest, finished=True))


def leave(past: Path, free_bytes: int) -> None:
    """Fills the disk up to some bytes."""
    room = shutil.disk_usage(past).free - free_bytes
    (past / FILLER).write_bytes(b"x" * room)


def contents(past: Path) -> dict[str, str]:
    files = [path for path in past.rglob("*") if path.is_file() and "ledger" not in path.parts]
    files = [path for path in files if path.name != OF_RAY_TRAIN]
    return {str(path.relative_to(past)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(job: str, past: Path) -> subprocess.CompletedProcess[str]:
    words = [f"jobs/{job}.py", *MORE_WORDS.get(job, []), "--root", str(past)]
    words += [] if job == "new_recipe" else ["--recipe", str(past / "recipe.py")]
    words += {
        "export_model": ["--out", str(past / "out")],
        "compare_experts": ["--steps", "1", "--texts", "2", "--set", f"language_expert_folder={past / 'past' / 'lm'}"],
        "new_recipe": ["--corpus", str(past / "corpus"), "--output", str(past / "new.py"), "--name", "new"],
    }.get(job, [])
    return run_forked_job(words, os.environ | {"RAY_ADDRESS": "local"}, CHECKOUT)


def run_out_of_room(job: str, past: Path, fault: str) -> subprocess.CompletedProcess[str]:
    """Runs a job that ends as the fault says, with a file of the run and the free bytes, and leaves nothing."""
    with nothing_left(past):
        done = run(job, past)
        FAULTS[fault].check(done)
    assert f"'{past}/" in done.stderr.splitlines()[-1] and "bytes are free" in done.stderr, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("job", some_cells("full disk", short=2))
def test_on_a_full_disk_a_job_says_what_does_not_fit_and_leaves_the_rest_as_it_was(past: Path, job: str) -> None:
    if job != "train_stage":
        finish(past)
    if job == "evaluate":  # it scores what has been exported and generated
        assert run("generate", past).returncode == 0
    if job == "generate":
        shutil.rmtree(past / "past" / "export", ignore_errors=True)
    leave(past, 0)
    before = contents(past)
    run_out_of_room(job, past, "full disk")
    assert contents(past) == before


@pytest.mark.long
@pytest.mark.parametrize("job", cells("full disk while it works"))
def test_a_disk_that_gets_full_ends_a_job_on_ray_with_what_did_not_fit(past: Path, job: str) -> None:
    """`python -m pytest tests/jobs/test_full_disk.py -m long`: half a minute each."""
    if job == "tokenize":
        (past / "past" / "tokens" / "00000.parquet").unlink()
    if job == "train_lm":
        shutil.rmtree(past / "past" / "lm")
    leave(past, 8192)
    before = contents(past)
    done = run_out_of_room(job, past, "full disk while it works")
    awaited = [line for line in done.stderr.splitlines() if "waiting" in line]
    slow_start = ("Ray to start", "a process for")  # on a busy machine
    assert all(any(words in line for words in slow_start) for line in awaited), awaited
    # Tokens that are not complete have no manifest.
    kept = [name for name in before if name.startswith("past/") and name != "past/tokens/manifest.json"]
    after = contents(past)
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}
    (past / FILLER).unlink()
    again = run(job, past)
    assert again.returncode == 0, again.stderr
