"""cluster/slurm.sh on a real Slurm controller: a training outlives its time limit, and leaves nothing.

It takes eight minutes: Slurm waits for two before a job starts again. It needs root and Slurm (Debian: slurm-wlm):
.venv/bin/python -m pytest -m long tests/end_to_end/test_slurm.py
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.checkpoints.manifest import newest_complete
from pipeline.step_figures import read_step_figures
from tests.support.checkout import CHECKOUT
from tests.support.past_run import RECIPE, copy_past_inputs
from tests.support.slurm import SlurmCluster, is_installed

SCRIPT = "cluster/slurm.sh"
STARTS_AGAIN_S = 300.0


@pytest.fixture
def slurm() -> Iterator[SlurmCluster]:
    if not is_installed():
        pytest.skip("Slurm is not installed, or the user is not root")
    cluster = SlurmCluster()
    yield cluster
    cluster.stop()


class Batch:
    """A first stage without an end as a batch job on two nodes, with a time limit of four minutes."""

    def __init__(self, slurm: SlurmCluster, folder: Path) -> None:
        self.run, self.log, self._slurm = copy_past_inputs(folder), folder / "log", slurm
        words = ["--parsable", "--nodes=2", "--time=4", "--signal=B:USR1@60", f"--output={self.log}"]
        words += [f"--export=ALL,MARS_PYTHON={sys.executable},PYTHONPATH={CHECKOUT}", SCRIPT]
        words += ["jobs/train_stage.py", "--recipe", str(RECIPE), "--stage", "1", "--root", str(folder)]
        words += ["--set", "stages.0.steps=100000", "--set", "stages.0.save_every_steps=50000"]
        self.number = slurm.type("sbatch", *words)

    def wait_until(self, holds: Callable[[], bool], timeout_s: float = 180.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            said = self.log.read_text() if self.log.exists() else ""
            assert time.monotonic() < deadline, f"{self._slurm.fields_of(self.number)}\n{said}"
            time.sleep(0.5)

    def wait_for(self, step: int) -> None:
        def is_there() -> bool:
            figures = read_step_figures(self.run / "stage1")
            return bool(figures) and figures[-1].step >= step

        self.wait_until(is_there, STARTS_AGAIN_S)

    def saved_step(self) -> int:
        newest = newest_complete(str(self.run / "stage1" / "checkpoints"))
        return newest.manifest.step if newest else 0

    def left(self) -> list[str]:
        """What the job has left on this machine."""
        folder = f"/tmp/ray-{self.number}"
        processes = [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]
        return [line for line in processes if folder in line] + [folder] * Path(folder).exists()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_near_its_time_limit_a_training_saves_is_queued_again_and_goes_on(slurm: SlurmCluster, tmp_path: Path) -> None:
    batch = Batch(slurm, tmp_path)
    batch.wait_for(3)
    batch.wait_until(lambda: slurm.fields_of(batch.number)["JobState"] == "PENDING")
    assert slurm.fields_of(batch.number)["Restarts"] == "1"
    saved, said = batch.saved_step(), batch.log.read_text()
    assert saved >= 3 and "the time limit is near: the job is asked to end" in said, said
    assert "the job ended with 7" in said and not batch.left(), batch.left()

    batch.wait_for(saved + 3)
    assert f"resumes from step {saved}" in batch.log.read_text()
    slurm.type("scancel", "--batch", "--signal=TERM", batch.number)  # a user who wants it to end for good
    batch.wait_until(lambda: slurm.fields_of(batch.number)["JobState"] == "FAILED")
    assert slurm.fields_of(batch.number)["ExitCode"] == "7:0" and batch.saved_step() >= saved + 3
    assert not batch.left(), batch.left()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, slurm_job, says",
    [
        ([], "", "name a job and its flags, as in: sbatch cluster/slurm.sh jobs/train_stage.py"),
        (["jobs/train_stage.py"], "", "this is no Slurm job; submit it with sbatch"),
        (["jobs/trian.py"], "1", "'jobs/trian.py' is no file in"),
    ],
)
def test_a_mistake_is_said_in_one_line(words: list[str], slurm_job: str, says: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"SLURM_JOB_ID": slurm_job} if slurm_job else {}
    done = subprocess.run(
        ["bash", SCRIPT, *words], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("slurm.sh: ") and says in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
