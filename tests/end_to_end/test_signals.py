"""A job's own Ray outlives a signal to the job's whole process group, and never the job."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from pipeline.checkpoints.manifest import newest_complete
from pipeline.step_figures import read_step_figures
from tests.support.checkout import CHECKOUT
from tests.support.fault_matrix import nothing_left
from tests.support.forked_jobs import start_job
from tests.support.past_run import RECIPE, copy_past_inputs

pytestmark = pytest.mark.slow
IN_ITS_GROUP = """
import os, runpy, sys
os.setsid()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A job as a terminal or a batch system starts it."""
END_S = 20.0
"""Seconds in which all processes of a job that was killed end."""


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder for the job's own Ray, which the command lines of Ray's processes name."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Training:
    """A first stage without an end, in a process group of its own."""

    def __init__(self, folder: Path, ray_folder: Path) -> None:
        self.run, self.log, self._script = copy_past_inputs(folder), folder / "log", folder / "in_its_group.py"
        self._script.write_text(IN_ITS_GROUP)
        self._words = ["jobs/train_stage.py", "--recipe", str(RECIPE), "--stage", "1", "--root", str(folder)]
        self._words += ["--set", "stages.0.steps=100000", "--set", "stages.0.save_every_steps=50000"]
        self._environment = os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": str(ray_folder)}

    def start(self) -> BaseProcess:
        words = [str(self._script), *self._words]
        return start_job(words, self._environment, CHECKOUT, self.log, self.log)

    def wait_for(self, step: int, job: BaseProcess) -> None:
        deadline = time.monotonic() + 300
        while not (lines := read_step_figures(self.run / "stage1")) or lines[-1].step < step:
            assert time.monotonic() < deadline and job.is_alive(), self.log.read_text()
            time.sleep(0.1)

    def wait_for_line(self, line: str) -> None:
        """What workers say reaches the log some time after the figures of their steps."""
        deadline = time.monotonic() + 30
        while line not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def saved_step(self) -> int:
        newest = newest_complete(str(self.run / "stage1" / "checkpoints"))
        return newest.manifest.step if newest else 0


def send(number: int, job: BaseProcess) -> None:
    """Sends a signal to the job's group, and checks that all processes which the job has started end with it."""
    assert job.pid
    started = psutil.Process(job.pid).children(recursive=True)
    os.killpg(job.pid, number)
    job.join(60)
    _, left = psutil.wait_procs(started, timeout=END_S)
    assert len(started) > 5 and not left, left


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_to_the_whole_group_saves_and_a_killed_job_leaves_nothing(
    tmp_path: Path, ray_folder: Path, number: int
) -> None:
    """Slurm, a shell and a terminal, by Ctrl-C, send their signals to the group."""
    training = Training(tmp_path, ray_folder)
    with nothing_left(tmp_path):
        job = training.start()
        training.wait_for(3, job)
        send(number, job)
        assert job.exitcode == 7, training.log.read_text()
        saved = training.saved_step()
        assert saved >= 3 and "ask again to end it at once" in training.log.read_text(), training.log.read_text()

        job = training.start()
        training.wait_for(saved + 3, job)
        training.wait_for_line(f"resumes from step {saved}")
        send(signal.SIGKILL, job)
