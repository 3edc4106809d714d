"""The first stage of a small run, trained on local nodes that a test kills."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

from pipeline.ledger.table import read_ledger
from pipeline.step_figures import read_step_figures
from tests.support.checkout import CHECKOUT
from tests.support.past_run import RECIPE, copy_past_inputs
from tests.support.restartable_nodes import RestartableNodes

STEPS = 60
SAVE_EVERY_STEPS = 5


class Trainings:
    """Runs with their inputs, and a cluster of two nodes on which their first stage trains."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes = RestartableNodes(
            folder / "nodes", 2, {"PYTHONPATH": str(CHECKOUT), "RAY_JOB_STOP_WAIT_TIME_S": "120"}
        )

    def run_of(self, name: str) -> Path:
        """A fresh run's folder."""
        return copy_past_inputs(self.folder / name)

    def words(self, run: Path, *overrides: str) -> list[str]:
        words = ["jobs/train_stage.py", "--recipe", str(RECIPE), "--stage", "1", "--root", str(run.parent)]
        usual = (f"stages.0.steps={STEPS}", f"stages.0.save_every_steps={SAVE_EVERY_STEPS}", "heartbeat_s=1.0")
        return words + [word for each in (*usual, *overrides) for word in ("--set", each)]

    def start(self, run: Path, *overrides: str) -> psutil.Popen:
        with (run / "log").open("a") as file:
            return psutil.Popen(
                [sys.executable, "-P", *self.words(run, *overrides)],
                cwd=CHECKOUT,
                env=self.nodes.environment,
                stdout=file,
                stderr=file,
            )

    def wait_for(self, run: Path, step: int, job: psutil.Popen | None = None, timeout_s: float = 300) -> None:
        """Waits until rank 0 has reported a step; fails if the job ends before."""
        deadline = time.monotonic() + timeout_s
        while not (lines := read_step_figures(run / "stage1")) or lines[-1].step < step:
            assert time.monotonic() < deadline and (job is None or job.poll() is None), (run / "log").read_text()
            time.sleep(0.1)

    def wait_for_line(self, run: Path, line: str, job: psutil.Popen) -> None:
        """Waits until the job has logged a line; fails if it ends before."""
        deadline = time.monotonic() + 180
        while line not in (run / "log").read_text():
            assert time.monotonic() < deadline and job.poll() is None, (run / "log").read_text()
            time.sleep(0.2)


class RayJobs:
    """`ray job` on the cluster, for a run's stage."""

    def __init__(self, trainings: Trainings, run: Path, *overrides: str) -> None:
        self._environment = {
            name: value for name, value in trainings.nodes.environment.items() if name != "RAY_ADDRESS"
        }
        self._environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{trainings.nodes.dashboard}"
        script, *words = trainings.words(run, *overrides)
        # In full: the head was started in another folder.
        self._entrypoint = ["--", sys.executable, "-P", str(CHECKOUT / script), *words]

    def type(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["ray", "job", *words], cwd=CHECKOUT, env=self._environment, capture_output=True, text=True, check=False
        )

    def submit(self, *words: str) -> None:
        done = self.type("submit", *words, *self._entrypoint)
        assert done.returncode == 0, done.stdout + done.stderr


def losses(run: Path) -> dict[int, list[float]]:
    """The losses of each step, in order of tasks."""
    return {
        figures.step: [value for _, value in sorted(figures.losses.items())]
        for figures in read_step_figures(run / "stage1")
    }


def attempts(run: Path) -> list[int]:
    """Workers of each attempt."""
    table = read_ledger(run / "ledger").table
    return table[table["job"] == "train_stage"]["gpu_count"].tolist()
