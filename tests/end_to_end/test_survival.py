"""Training on a local cluster of several nodes that loses workers, nodes, drivers and its head, with SIGKILL."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.benchmarks.fault_injection import same_ends
from pipeline.checkpoints.manifest import newest_complete
from pipeline.ledger.table import read_ledger
from pipeline.step_figures import read_step_figures
from tests.support.restartable_nodes import RestartableNodes
from tests.support.small_run import small_checkout

pytestmark = pytest.mark.timeout(1800)
STEPS = 60
STAGE = [f"stages.0.steps={STEPS}", "stages.0.save_every_steps=5", "stages.0.log_every_steps=1"]
LONG_STEPS = 250
LONG = [f"stages.0.steps={LONG_STEPS}"]
"""For what takes Ray some seconds to hear of, on a machine whose steps take a tenth of one."""


class Trainings:
    """A small recipe with its inputs made, and a cluster on which its first stage trains."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.checkout = folder, small_checkout(folder)
        self.nodes = RestartableNodes(
            folder / "nodes", 2, {"PYTHONPATH": str(self.checkout), "RAY_JOB_STOP_WAIT_TIME_S": "120"}
        )
        self.inputs = folder / "inputs"
        for job in ("tokenize", "train_lm"):
            # On a Ray of its own: workers of two kinds do not find room on nodes of one CPU.
            environment = self.nodes.environment | {"RAY_ADDRESS": "local"}
            words = [sys.executable, "-P", f"jobs/{job}.py", "--root", str(self.inputs)]
            done = subprocess.run(
                words, cwd=self.checkout, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr

    def run_of(self, name: str) -> Path:
        """A fresh run's folder."""
        run = self.folder / name / "demo"
        shutil.copytree(self.inputs / "demo", run, ignore=shutil.ignore_patterns("ledger"))
        return run

    def words(self, run: Path, *overrides: str) -> list[str]:
        words = ["jobs/train_stage.py", "--stage", "1", "--root", str(run.parent)]
        return words + [word for each in [*STAGE, *overrides] for word in ("--set", each)]

    def start(self, run: Path, *overrides: str) -> psutil.Popen:
        with (run / "log").open("a") as file:
            return psutil.Popen(
                [sys.executable, "-P", *self.words(run, *overrides)],
                cwd=self.checkout,
                env=self.nodes.environment,
                stdout=file,
                stderr=file,
            )

    def wait_for(self, run: Path, step: int, job: psutil.Popen | None = None, timeout_s: float = 300) -> None:
        deadline = time.monotonic() + timeout_s
        while not (lines := read_step_figures(run / "stage1")) or lines[-1].step < step:
            assert time.monotonic() < deadline and (job is None or job.poll() is None), (run / "log").read_text()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    trainings = Trainings(tmp_path_factory.mktemp("trainings"))
    yield trainings
    trainings.nodes.stop()


@pytest.fixture(scope="module")
def whole(trainings: Trainings) -> Path:
    run = trainings.run_of("whole")
    assert trainings.start(run).wait(timeout=600) == 0, (run / "log").read_text()
    return run


@pytest.fixture(scope="module")
def long_whole(trainings: Trainings) -> Path:
    run = trainings.run_of("long_whole")
    assert trainings.start(run, *LONG).wait(timeout=600) == 0, (run / "log").read_text()
    return run


def losses(run: Path) -> dict[int, list[float]]:
    return {
        figures.step: [value for _, value in sorted(figures.losses.items())]
        for figures in read_step_figures(run / "stage1")
    }


def attempts(run: Path) -> list[int]:
    """Workers of each attempt."""
    table = read_ledger(run / "ledger").table
    return table[table["job"] == "train_stage"]["gpu_count"].tolist()


def test_sigterm_saves_and_ends_with_its_exit_code_and_the_same_command_goes_on(
    trainings: Trainings, whole: Path
) -> None:
    run = trainings.run_of("terminated")
    job = trainings.start(run)
    trainings.wait_for(run, 8, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) == 7, (run / "log").read_text()
    saved = newest_complete(str(run / "stage1" / "checkpoints")).manifest.step
    assert saved == read_step_figures(run / "stage1")[-1].step < STEPS, "nothing that was learned is lost"
    assert "a checkpoint was written, the same command goes on from it" in (run / "log").read_text().replace("\n", " ")
    assert trainings.start(run).wait(timeout=300) == 0, (run / "log").read_text()
    assert losses(run) == losses(whole) and same_ends(run / "stage1", whole / "stage1")


def test_a_short_punishment_ends_with_the_same_weights(trainings: Trainings) -> None:
    """`make test`'s form of the one in docs/reliability.md: a worker, a node or the driver, three times."""
    words = ["jobs/benchmark.py", "punish", "--json", "--minutes", "5", "--seed", "3", "--steps", str(STEPS)]
    words += [
        "--save-every-steps",
        "4",
        "--most-kills",
        "3",
        "--pause-s",
        "8",
        "--root",
        str(trainings.folder / "short"),
    ]
    (trainings.folder / "short" / "punish").mkdir(parents=True)
    shutil.copytree(trainings.inputs, trainings.folder / "short" / "punish" / "inputs")
    environment = {name: value for name, value in trainings.nodes.environment.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-P", *words],
        cwd=trainings.checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["weights_equal"] is True and figures["kills"] == 3, figures
    assert sum(figures["kills_by_kind"].values()) == 3 and figures["restarts"] >= 1
    assert 0 < figures["goodput"] < figures["reference_goodput"] < 1
    kills = [
        json.loads(line) for line in (trainings.folder / "short" / "punish" / "kills.jsonl").read_text().splitlines()
    ]
    assert all(kill["pid"] > 0 and 0 <= kill["step"] < STEPS for kill in kills)


@pytest.mark.long
def test_a_worker_that_hangs_is_found_and_its_stacks_are_told(trainings: Trainings, whole: Path) -> None:
    run = trainings.run_of("hanging")
    job = trainings.start(run, "stages.0.step_timeout_s=20")
    trainings.wait_for(run, 8, job)
    trainings.nodes.train_workers()[0].suspend()  # SIGSTOP: the other one waits in a collective
    assert job.wait(timeout=400) == 0, (run / "log").read_text()
    log = (run / "log").read_text()
    assert "nothing was done for 20 s (step_timeout_s); the workers hang, and are ended" in log
    assert "its stacks, from" in log and "train_step.py" in log, "where it hangs is what one wants to know"
    assert losses(run) == losses(whole) and same_ends(run / "stage1", whole / "stage1")
    assert attempts(run) == [2, 2]


@pytest.mark.long
def test_a_node_that_is_announced_to_go_ends_a_fixed_number_of_workers_with_its_exit_code(
    trainings: Trainings, long_whole: Path
) -> None:
    run = trainings.run_of("announced")
    job = trainings.start(run, *LONG)
    trainings.wait_for(run, 8, job)
    leaving = node_of(trainings, trainings.nodes.train_workers()[0])
    drain(trainings, leaving)
    assert job.wait(timeout=120) == 7, (run / "log").read_text()
    assert (
        newest_complete(str(run / "stage1" / "checkpoints")).manifest.step == read_step_figures(run / "stage1")[-1].step
    )
    trainings.nodes.kill_node(trainings.nodes.nodes.index(leaving))
    trainings.nodes.add_node()
    assert trainings.start(run, *LONG).wait(timeout=600) == 0, (run / "log").read_text()
    assert losses(run) == losses(long_whole) and same_ends(run / "stage1", long_whole / "stage1")


@pytest.mark.long
def test_with_a_range_a_run_goes_on_smaller_and_grows_back_on_the_same_samples(trainings: Trainings) -> None:
    """In float32: what another number of workers adds in another order differs by 1e-5 at most in the next 20 steps."""
    long = ["stages.0.steps=4000", "zero.dtype=float32"]  # neither comes to its end
    reference, run = trainings.run_of("reference"), trainings.run_of("resized")
    job = trainings.start(reference, *long)
    trainings.wait_for(reference, 600, job, timeout_s=600)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) == 7, (reference / "log").read_text()
    elastic = ["scaling.min_workers=1", "scaling.wait_for_all_s=5", "scaling.grow_after_s=20"]
    job = trainings.start(run, *long, *elastic)
    trainings.wait_for(run, 8, job)
    leaving = node_of(trainings, trainings.nodes.train_workers()[0])
    drain(trainings, leaving)
    wait_for_line(run, "1 of 2 workers begin", job)
    trainings.nodes.kill_node(trainings.nodes.nodes.index(leaving))
    smaller_from = read_step_figures(run / "stage1")[-1].step
    trainings.wait_for(run, smaller_from + 20, job)
    trainings.nodes.add_node()
    wait_for_line(run, "there is room for 2 workers", job)
    trainings.wait_for(run, read_step_figures(run / "stage1")[-1].step + 20, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) == 7, (run / "log").read_text()
    workers = attempts(run)
    assert workers[0] == 2 and 1 in workers and workers[-1] == 2, workers
    expected, found = losses(reference), losses(run)
    assert smaller_from + 20 <= max(expected), "the reference is too short to say anything"
    for step in range(1, smaller_from + 21):
        assert found[step] == pytest.approx(expected[step], rel=1e-5), step


def wait_for_line(run: Path, line: str, job: psutil.Popen) -> None:
    deadline = time.monotonic() + 180
    while line not in (run / "log").read_text():
        assert time.monotonic() < deadline and job.poll() is None, (run / "log").read_text()
        time.sleep(0.2)


def node_of(trainings: Trainings, worker: psutil.Process) -> psutil.Process:
    return next(node for node in trainings.nodes.nodes if worker in node.children(recursive=True))


def drain(trainings: Trainings, node: psutil.Process) -> None:
    """What a cloud's notice becomes in Ray."""
    listing = subprocess.run(
        [sys.executable, "-c", "import ray, json; ray.init(); print('NODES' + json.dumps(ray.nodes()))"],
        env=trainings.nodes.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    nodes = json.loads(listing.stdout.split("NODES", 1)[1])
    node_id = next(each["NodeID"] for each in nodes if each["Alive"] and raylet_has(node, each))
    words = ["ray", "drain-node", f"--address={trainings.nodes.environment['RAY_ADDRESS']}", f"--node-id={node_id}"]
    words += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=90"]
    subprocess.run(words, env=trainings.nodes.environment, check=True, capture_output=True)


def raylet_words(node: psutil.Process) -> list[str]:
    return next(p.cmdline() for p in node.children(recursive=True) if p.name() == "raylet")


def raylet_has(node: psutil.Process, record: dict) -> bool:
    return any(word.endswith(f"={record['RayletSocketName']}") for word in raylet_words(node))


@pytest.mark.long
def test_a_late_node_does_not_restart_the_attempt(trainings: Trainings, whole: Path) -> None:
    """Later than the 60 s after which Ray Train by itself would begin anew."""
    run = trainings.run_of("late")
    trainings.nodes.kill_node(0)
    time.sleep(8)  # Ray has to notice
    job = trainings.start(run)
    time.sleep(75)
    assert job.poll() is None and not read_step_figures(run / "stage1")
    trainings.nodes.add_node()
    assert job.wait(timeout=300) == 0, (run / "log").read_text()
    assert attempts(run) == [2] and losses(run) == losses(whole)


@pytest.mark.long
def test_after_the_heads_end_the_same_submit_goes_on(trainings: Trainings, long_whole: Path) -> None:
    """Ray's head has all that Ray knows: without another store the job ends with it. The run does not."""
    run = trainings.run_of("headless")
    job = trainings.start(run, *LONG)
    trainings.wait_for(run, 12, job)
    trainings.nodes.restart_head()
    job.kill()
    job.wait()
    saved = newest_complete(str(run / "stage1" / "checkpoints")).manifest.step
    assert 5 <= saved < LONG_STEPS
    assert trainings.start(run, *LONG).wait(timeout=600) == 0, (run / "log").read_text()
    assert losses(run) == losses(long_whole) and same_ends(run / "stage1", long_whole / "stage1")


class RayJobs:
    """`ray job` on the cluster, for a run's stage."""

    def __init__(self, trainings: Trainings, run: Path) -> None:
        self._checkout = trainings.checkout
        self._environment = {
            name: value for name, value in trainings.nodes.environment.items() if name != "RAY_ADDRESS"
        }
        self._environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{trainings.nodes.dashboard}"
        script, *words = trainings.words(run, *LONG)
        # In full: the head was started in another folder.
        self._entrypoint = ["--", sys.executable, "-P", str(trainings.checkout / script), *words]

    def type(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["ray", "job", *words],
            cwd=self._checkout,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def submit(self, *words: str) -> None:
        done = self.type("submit", *words, *self._entrypoint)
        assert done.returncode == 0, done.stdout + done.stderr


def submitted(trainings: Trainings, name: str, step: int) -> tuple[Path, RayJobs]:
    """A run that was submitted under its own name and is past a step."""
    run = trainings.run_of(name)
    jobs = RayJobs(trainings, run)
    jobs.submit("--submission-id", name, "--no-wait")
    trainings.wait_for(run, step)
    return run, jobs


@pytest.mark.long
def test_ray_job_stop_leaves_time_for_a_checkpoint(trainings: Trainings, long_whole: Path) -> None:
    run, jobs = submitted(trainings, "stopped", 8)
    jobs.type("stop", "stopped")
    saved = newest_complete(str(run / "stage1" / "checkpoints")).manifest.step
    assert saved == read_step_figures(run / "stage1")[-1].step, "nothing that was learned is lost"
    assert "a checkpoint was written" in jobs.type("logs", "stopped").stdout
    jobs.submit()
    assert losses(run) == losses(long_whole) and same_ends(run / "stage1", long_whole / "stage1")


@pytest.mark.long
def test_a_submitted_job_whose_driver_is_killed_goes_on_with_the_same_submit(
    trainings: Trainings, long_whole: Path
) -> None:
    run, jobs = submitted(trainings, "driverless", 12)
    # The shell that Ray starts it in names the script, too; the driver is the Python in it.
    drivers = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if str(run.parent) in (process.info["cmdline"] or ()) and process.info["name"].startswith("python")
    ]
    assert len(drivers) == 1, drivers
    drivers[0].kill()
    jobs.submit()
    assert min(figures.step for figures in read_step_figures(run / "stage1")[12:]) > 5, "it goes on, and does not begin"
    assert losses(run) == losses(long_whole) and same_ends(run / "stage1", long_whole / "stage1")
