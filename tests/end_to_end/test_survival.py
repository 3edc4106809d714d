"""Training on a local cluster of several nodes that loses workers, nodes, drivers and its head, with SIGKILL."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest

from jobs import benchmark
from jobs.common.cli import run_job
from pipeline.benchmarks import punishment as punishing
from pipeline.benchmarks.fault_injection import same_ends
from pipeline.checkpoints.manifest import newest_complete
from pipeline.errors import ExitCode
from pipeline.step_figures import read_step_figures
from tests.support.forked_workers import forked_workers
from tests.support.past_run import RECIPE, copy_past_inputs
from tests.support.restartable_nodes import RestartableNodes
from tests.support.trainings import STEPS, RayJobs, Trainings, attempts, losses

pytestmark = pytest.mark.timeout(1800)
LONG_STEPS = 250
LONG = [f"stages.0.steps={LONG_STEPS}"]
"""For what takes Ray some seconds to hear of, on a machine whose steps take a tenth of one."""


@dataclass(frozen=True)
class Punishment:
    """The output of `jobs/benchmark.py punish`, and the files that it left."""

    figures: dict[str, Any]
    kills: list[dict[str, Any]]
    reference: Path


@pytest.fixture(scope="module")
def punishment(tmp_path_factory: pytest.TempPathFactory) -> Punishment:
    """A short form of the one in docs/reliability.md: a worker, a node or the driver, twice."""
    root = tmp_path_factory.mktemp("punishment")
    copy_past_inputs(root / "punish" / "inputs")
    words = ["punish", "--json", "--minutes", "5", "--seed", "3", "--recipe", str(RECIPE), "--root", str(root)]
    words += ["--steps", str(STEPS), "--save-every-steps", "4", "--most-kills", "2", "--pause-s", "4"]
    shown = io.StringIO()
    with (
        patch.object(punishing, "LocalNodes", RestartableNodes),
        patch.object(sys, "executable", forked_workers().python),
        patch.dict(os.environ),
        redirect_stdout(shown),
        pytest.raises(SystemExit) as end,
    ):
        run_job(benchmark.Options, benchmark.main, "", words)
    assert end.value.code == ExitCode.DONE, shown.getvalue()
    kills = (root / "punish" / "kills.jsonl").read_text().splitlines()
    return Punishment(
        json.loads(shown.getvalue().splitlines()[-1]),
        [json.loads(line) for line in kills],
        root / "punish" / "reference" / "past",
    )


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    trainings = Trainings(tmp_path_factory.mktemp("trainings"))
    yield trainings
    trainings.nodes.stop()


@pytest.fixture(scope="module")
def whole(punishment: Punishment) -> Path:
    """The undisturbed run."""
    return punishment.reference


@pytest.fixture(scope="module")
def long_whole(trainings: Trainings) -> Path:
    run = trainings.run_of("long_whole")
    assert trainings.start(run, *LONG).wait(timeout=600) == 0, (run / "log").read_text()
    return run


@pytest.mark.long
def test_a_short_punishment_ends_with_the_same_weights(punishment: Punishment) -> None:
    figures = punishment.figures
    assert figures["weights_equal"] is True and figures["kills"] == 2, figures
    assert sum(figures["kills_by_kind"].values()) == 2 and figures["restarts"] >= 1
    assert 0 < figures["goodput"] < 1 and 0 < figures["reference_goodput"] < 1
    assert len(punishment.kills) == 2
    assert all(kill["pid"] > 0 and 0 <= kill["step"] < STEPS for kill in punishment.kills)


@pytest.mark.long
def test_a_worker_that_hangs_is_found_and_its_stacks_are_told(trainings: Trainings, whole: Path) -> None:
    run = trainings.run_of("hanging")
    job = trainings.start(run, "stages.0.step_timeout_s=20")
    trainings.wait_for(run, 8, job)
    trainings.nodes.train_workers()[0].suspend()  # SIGSTOP: the other one waits in a collective
    assert job.wait(timeout=400) == 0, (run / "log").read_text()
    log = (run / "log").read_text()
    assert "no progress for 20 s (step_timeout_s): the workers hang, and are killed" in log
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
    """In float32 another number of workers adds in another order: losses of the next 20 steps differ by 1e-5 at
    most."""
    long = ["stages.0.steps=4000"]  # neither comes to its end
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
    trainings.wait_for_line(run, "1 of 2 workers begin", job)
    trainings.nodes.kill_node(trainings.nodes.nodes.index(leaving))
    smaller_from = read_step_figures(run / "stage1")[-1].step
    trainings.wait_for(run, smaller_from + 20, job)
    trainings.nodes.add_node()
    trainings.wait_for_line(run, "there is room for 2 workers", job)
    trainings.wait_for(run, read_step_figures(run / "stage1")[-1].step + 20, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) == 7, (run / "log").read_text()
    workers = attempts(run)
    assert workers[0] == 2 and 1 in workers and workers[-1] == 2, workers
    expected, found = losses(reference), losses(run)
    assert smaller_from + 20 <= max(expected), "the reference is too short to say anything"
    for step in range(1, smaller_from + 21):
        assert found[step] == pytest.approx(expected[step], rel=1e-5), step


def node_of(trainings: Trainings, worker: psutil.Process) -> psutil.Process:
    return next(node for node in trainings.nodes.nodes if worker in node.children(recursive=True))


def drain(trainings: Trainings, node: psutil.Process) -> None:
    """Announces in Ray that a node will be removed, as a cloud's notice does."""
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
    """The node comes later than the 60 s after which Ray Train by itself would start again."""
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
    """Ray's head holds all of Ray's state: without an external store the job ends with it, but the run goes on."""
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


def submitted(trainings: Trainings, name: str, step: int) -> tuple[Path, RayJobs]:
    """A run that was submitted under its own name and is past a step."""
    run = trainings.run_of(name)
    jobs = RayJobs(trainings, run, *LONG)
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
