"""Samples that another process builds are those that a thread builds, and the process never outlives its rank."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.data.loader import ProcessLoader, ThreadLoader, lone_loader, prefetch
from pipeline.data.plan_inputs import PlanInputs
from pipeline.data.row_index import SourceRows
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.errors import InputError, WorkersLostError
from tests.support.built_steps import assert_equal, builder
from tests.support.checkout import CHECKOUT
from tests.support.forkserver import forkserver
from tests.support.tokens import STAGE, write_tokens

RANK, RANKS, STEPS = 1, 2, 3
ENDS_WITHIN_S = 30.0


def inputs_of(tokens: Path) -> PlanInputs:
    stage = replace(STAGE, attention="flex_attention", window_shards=3)
    return PlanInputs(stage, 1, 0, (SourceRows("main", tokens, build_row_index(RowSelection(tokens))),), builder())


def _rank(tokens: Path, found: Path) -> None:
    """A rank that takes some steps, then one of damaged tokens, and is killed."""
    loader = lone_loader(inputs_of(tokens).plan, RANK, RANKS, in_process=True)
    assert isinstance(loader, ProcessLoader)
    steps = list(prefetch(loader.step, 0, STEPS))
    for path in tokens.glob("*.parquet"):
        path.write_bytes(b"not parquet")
    try:
        loader.step(1000)
    except Exception as error:
        answer = pickle.dumps((steps, error, loader.process_id))
    found.with_suffix(".part").write_bytes(answer)
    found.with_suffix(".part").rename(found)
    signal.pause()


def wait_for(happened: Any) -> None:
    deadline = time.monotonic() + ENDS_WITHIN_S
    while not happened():
        assert time.monotonic() < deadline, happened
        time.sleep(0.05)


def runs(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_process_builds_the_same_steps_raises_the_same_errors_and_ends_when_its_rank_is_killed(
    tmp_path: Path,
) -> None:
    tokens, found = tmp_path / "tokens", tmp_path / "found"
    write_tokens(tokens, shards=9)
    expected = list(prefetch(ThreadLoader(inputs_of(tokens).plan(), RANK, RANKS).step, 0, STEPS))
    shared = set(Path("/dev/shm").iterdir())
    rank = forkserver().Process(target=_rank, args=(tokens, found))
    rank.start()
    wait_for(found.exists)
    steps, error, loader = pickle.loads(found.read_bytes())
    assert_equal(steps, expected)
    assert isinstance(error, InputError) and "parquet" in str(error) and "\n" not in str(error)
    assert runs(loader)
    rank.kill()
    rank.join()
    wait_for(lambda: not runs(loader))
    assert not {path for path in set(Path("/dev/shm").iterdir()) - shared if str(loader) in path.name}


@pytest.mark.slow
def test_a_process_that_is_killed_is_a_lost_worker_which_another_attempt_replaces(tmp_path: Path) -> None:
    write_tokens(tmp_path)
    loader = lone_loader(inputs_of(tmp_path).plan, 3, 8, in_process=True)
    assert isinstance(loader, ProcessLoader) and loader.process_id
    os.kill(loader.process_id, signal.SIGKILL)
    with pytest.raises(WorkersLostError, match="samples of rank 3 has ended with exit code -9"):
        loader.step(0)
    loader.close()
    assert not runs(loader.process_id)


@pytest.mark.slow
def test_the_process_imports_no_torch() -> None:
    """Each node would pay 190 MB of memory for it, and seconds of a CPU at each start."""
    shown = "import sys, pipeline.data.loader_process; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", shown], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "ray"} & set(done.stdout.split())
