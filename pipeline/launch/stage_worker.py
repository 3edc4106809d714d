"""The worker of a stage in a Ray Train group."""

import os
from dataclasses import dataclass

import ray
from ray.actor import ActorProxy

from pipeline.launch.monitor import StageMonitor
from pipeline.launch.ray_train import join_worker_group
from pipeline.launch.reporting import RankReporter
from pipeline.runtime.ray_private import announced_preemptions
from pipeline.runtime.watchdog import StepWatchdog
from pipeline.step_figures import StepFigures
from pipeline.training.loop import train_stage
from pipeline.training.stage_run import StageRun
from pipeline.training.start_clock import StartClock
from pipeline.training.stop_request import StopRequest


@dataclass(frozen=True)
class StageWorker:
    """Trains the stage as one rank. Called in the worker's process.

    Attributes:
        run: inputs of the stage.
        monitor: actor that watches the attempt.
        began_at: when the attempt began, in seconds of the wall clock.
    """

    run: StageRun
    monitor: ActorProxy[StageMonitor]
    began_at: float

    def __call__(self) -> None:
        context, run, clock = join_worker_group(), self.run, StartClock(self.began_at)
        clock.lap("workers")
        me = ray.get_runtime_context()
        where = f"process {os.getpid()} on node {me.get_node_id()[:8]}"
        self.monitor.joined.remote(context.rank, me.current_actor, where)
        reporter = StageRankReporter(run, self.monitor, context.rank)
        try:
            train_stage(run, context.device, reporter, clock)
        finally:
            reporter.close()


class StageRankReporter(RankReporter[StepFigures]):
    """A rank's `StageReporter`: combines the monitor actor, the rank's watchdog, and Ray Train's preemption notices."""

    def __init__(self, run: StageRun, monitor: ActorProxy[StageMonitor], rank: int) -> None:
        super().__init__(monitor, rank)
        self._monitor = monitor
        # A verification writes no file: it may run while an attempt trains in the same folder.
        self._watchdog = None if run.verify_only else StepWatchdog(run.output, rank, run.stage.step_timeout_s)
        self._pending = monitor.stop_requested.remote()

    def heartbeat(self) -> None:
        """Restarts the watchdog of this rank and, on rank 0, the monitor's."""
        if self._watchdog:
            self._watchdog.heartbeat()
        if self._is_first:
            self._monitor.heartbeat.remote()

    def stop_requested(self) -> StopRequest | None:
        """Returns a stop for a preemption notice, or else the monitor's answer to the previous call."""
        if nodes := announced_preemptions():
            names = ", ".join(node[:8] for node in nodes)
            return StopRequest("node", f"Ray announces that node {names} will be taken away")
        ready, _ = ray.wait([self._pending], timeout=0)
        if not ready:
            return None
        answer = ray.get(self._pending)
        self._pending = self._monitor.stop_requested.remote()
        return answer

    def close(self) -> None:
        """Stops the watchdog, and waits until the monitor has processed everything."""
        if self._watchdog:
            self._watchdog.close()
        self.flush()
