"""Measures what the head, the driver and a stage's actors do a second for a group of many workers.

Monitor, ledger and the driver's threads are the real ones. A few processes stand for the workers and send what workers
send. Another one asks them for their status as often as Ray Train's controller asks its workers. Ray's tables list as
many bundles and actors as the group has.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.actor import ActorHandle, ActorProxy
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pipeline.config.benchmarks import MessageSettings
from pipeline.config.scaling import ScalingConfig
from pipeline.config.stage import StageConfig
from pipeline.launch.attempts import watching_attempt
from pipeline.launch.monitor import StageMonitor
from pipeline.launch.ray_train import health_check_s
from pipeline.launch.reporting import RankReporter
from pipeline.ledger.account import DayLimits
from pipeline.ledger.actor import keep_ledger, new_attempt
from pipeline.runtime.actors import actor_here
from pipeline.runtime.messages import relaying_messages
from pipeline.runtime.ray_private import status_of_a_running_worker
from pipeline.runtime.terminal import say
from pipeline.runtime.termination import Termination
from pipeline.step_figures import StepFigures

STAND_INS = 8
"""Processes that stand for the workers."""
HEARTBEAT_S, SETTLE_S = 60.0, 10.0
FIGURES: dict[str, Any] = {
    "losses": {"text_to_image": 6.5, "captioning": 2.5, "opener": 0.1, "plain_text": 3.0},
    "flop_by_kind": {"text_to_image": 1e18, "captioning": 1e18},
    "forward_s_by_kind": {"text_to_image": 0.5, "captioning": 0.5},
    "samples": 32_768,
    "tokens": 10_000_000,
    "flop": 2e18,
}
"""Of a step of two kinds."""
PARTS = {
    "gcs": "gcs_server",
    "raylet": "raylet/raylet",
    "monitor": "ray::StageMonitor",
    "ledger": "ray::LedgerActor",
    "controller": "ray::GroupController",
}
"""What the command line of each process has in it. The driver is this process."""


def benchmark_messages(settings: MessageSettings) -> dict[str, Any]:
    """Runs the messages of a group for `seconds`.

    Returns:
        The share of a core that each part takes (`cores`), of which `idle_cores` without a group; their sum without
        the raylet, which each node has (`head_cores`); and `join_s` until all workers had registered.
    """
    ranks = settings.ranks
    ray.init("local", num_cpus=ranks + STAND_INS, include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _measure(settings, Path(folder))
    finally:
        ray.shutdown()


def _measure(settings: MessageSettings, folder: Path) -> dict[str, Any]:
    ranks, stage = settings.ranks, StageConfig(purpose="benchmark", steps=10**6, log_every_steps=10)
    time.sleep(SETTLE_S)
    idle = _cores(settings.seconds)
    attempt = new_attempt(str(folder / "ledger"), "benchmark", "train_stage", "1", "CPU", DayLimits())
    with keep_ledger(str(folder / "ledger"), attempt, HEARTBEAT_S, []) as ledger:
        say(f"benchmark: places a group of {ranks} workers")
        held = _group_in_tables(ranks)
        monitor = actor_here(StageMonitor).remote("benchmark", 1, stage, folder, ledger)
        with _driver(monitor, ranks):
            controller, stand_ins, join_s = _workers(monitor, settings)
            say(f"benchmark: {ranks} workers have registered; measures {settings.seconds:g} s")
            time.sleep(SETTLE_S)
            cores = _cores(settings.seconds)
        looks = ray.get(controller.looks.remote())
        for actor in (controller, *stand_ins):
            ray.kill(actor)
    del held
    return {
        "ranks": ranks,
        "steps_per_s": 1 / settings.step_s,
        "looks_at_all_workers_per_s": 1 / health_check_s(ranks),
        "looks": looks,
        "join_s": join_s,
        "cores": cores,
        "idle_cores": idle,
        "head_cores": sum(share for part, share in cores.items() if part != "raylet"),
    }


def _cores(seconds: float) -> dict[str, float]:
    """Measures for so many seconds which share of a core each part takes."""
    before, began = _cpu_s(), time.monotonic()
    time.sleep(seconds)
    after, passed = _cpu_s(), time.monotonic() - began
    return {part: (after[part] - before[part]) / passed for part in after}


def _cpu_s() -> dict[str, float]:
    """CPU seconds of each part so far."""
    driver = psutil.Process()
    found = {"driver": sum(driver.cpu_times()[:2])} | dict.fromkeys(PARTS, 0.0)
    for process in driver.children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            words = " ".join(process.cmdline())
            for part in [part for part, mark in PARTS.items() if mark in words]:
                found[part] += sum(process.cpu_times()[:2])
    return found


def _group_in_tables(ranks: int) -> tuple[PlacementGroup, PlacementGroup, list[Any]]:
    """Has Ray's tables list the bundles and the actors of a group. The actors wait for a node that never comes: as many
    processes would not fit on a machine."""
    group = placement_group([{"CPU": 1.0}] * ranks)
    assert group.wait(120), "the group was not placed"
    nowhere = placement_group([{"CPU": 1.0, "not there": 1.0}] * ranks)
    waiting = ray.remote(num_cpus=1)(Waiting)
    strategies = (PlacementGroupSchedulingStrategy(nowhere, number) for number in range(ranks))
    return group, nowhere, [waiting.options(scheduling_strategy=each).remote() for each in strategies]


class Waiting:
    """Actor that is listed, and never runs."""


@contextmanager
def _driver(monitor: ActorProxy[StageMonitor], ranks: int) -> Iterator[None]:
    """The threads of a job's driver."""
    termination = Termination()
    termination.nobody_trains.set()
    with relaying_messages(monitor), watching_attempt(monitor, termination, ScalingConfig(num_workers=ranks), ranks):
        yield


def _workers(monitor: ActorProxy[StageMonitor], settings: MessageSettings) -> tuple[Any, list[ActorHandle[Any]], float]:
    """Starts the processes that stand for the workers, and the one that looks at them. Returns also the seconds in
    which all workers registered."""
    concurrent: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 2}
    stand_in: Any = ray.remote(**concurrent)(StandIn)
    shares = [range(number, settings.ranks, STAND_INS) for number in range(STAND_INS)]
    actors = [stand_in.remote(monitor, share, settings.step_s) for share in shares]
    ray.get([actor.poll_status.remote() for actor in actors])  # they have started
    began = time.monotonic()
    ray.get([actor.join.remote(actor) for actor in actors])
    join_s = time.monotonic() - began
    actors[0].train.remote()
    controller: Any = (
        actor_here(GroupController)
        .options(max_concurrency=2)
        .remote([actors[rank % STAND_INS] for rank in range(settings.ranks)])
    )
    controller.look.remote(health_check_s(settings.ranks))
    return controller, actors, join_s


class StandIn:
    """Stands for some workers.

    Args:
        monitor: the stage's.
        ranks: the workers' ranks.
        step_s: seconds of a step.
    """

    def __init__(self, monitor: ActorProxy[StageMonitor], ranks: range, step_s: float) -> None:
        self._monitor, self._ranks, self._step_s = monitor, ranks, step_s

    def join(self, me: ActorHandle[Any]) -> None:
        """Sends what each worker sends as it starts."""
        for rank in self._ranks:
            self._monitor.joined.remote(rank, me, f"process 12345 on node 0123abcd, rank {rank}")
            stop = self._monitor.stop_requested.remote()
        ray.get(stop)

    def train(self) -> None:
        """Sends what rank 0 sends, step after step."""
        reporter = RankReporter[StepFigures](self._monitor, 0)
        for step in range(1, 10**6):
            time.sleep(self._step_s)
            for _ in range(3):  # after the samples came, after the step, and after what follows it
                self._monitor.heartbeat.remote()
            reporter.post(StepFigures(step=step, step_s=self._step_s, **FIGURES))
            ray.get(self._monitor.stop_requested.remote())

    def poll_status(self) -> object:
        """Answers as a worker of Ray Train does."""
        return status_of_a_running_worker()


class GroupController:
    """Actor that asks all workers for their status, as Ray Train's controller does."""

    def __init__(self, workers: list[ActorHandle[Any]]) -> None:
        self._workers: list[Any] = workers
        self._looks = 0

    def looks(self) -> int:
        """How often it has asked all of them."""
        return self._looks

    def look(self, every_s: float) -> None:
        """Asks, and never returns."""
        while True:
            began = time.monotonic()
            asked = [worker.poll_status.remote() for worker in self._workers]
            for answer in ray.wait(asked, num_returns=len(asked), timeout=60)[0]:
                ray.get(answer)
            self._looks += 1
            time.sleep(max(0.0, every_s - (time.monotonic() - began)))
