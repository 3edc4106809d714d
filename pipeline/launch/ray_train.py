"""Ray Train, and the only place that knows its names: worker groups that run a loop on every rank."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from pipeline.config.scaling import ScalingConfig
from pipeline.errors import CorruptionError, OutageError, StoppedError, WorkersLostError
from pipeline.runtime.ray_private import announced_preemptions, original_error
from pipeline.runtime.watchdog import StepWatchdog
from pipeline.training.engine import put_tools_on_path
from pipeline.training.loop import train_stage
from pipeline.training.stage_run import StageRun
from pipeline.training.stop_request import StopRequest

WORKER_GROUP_START_TIMEOUT_S = 1800
"""GPU nodes take minutes to start; Ray Train's own 60 s would tear the group down and ask for it again, for ever."""
ELASTIC_START_S = 300
PREEMPTION_POLL_S = 2
"""Between two looks of Ray Train's watcher at which nodes are about to be taken away. Its own 5 s are a good part of a
notice of 30 s."""
ERROR_CHARACTERS = 300
"""Of what a lost worker died of, in a line for whoever runs the job."""

NO_RETRIES: Any = FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0)

Loop = Callable[[torch.device, Callable[[dict[str, Any]], None], Callable[[str], None]], None]
"""What a rank runs: with its device, and where figures and lines for whoever runs the job go."""


def run_workers(loop: Loop, scaling: ScalingConfig, name: str, storage: Path, monitor: Any) -> None:
    """Runs `loop` on a group of `scaling.num_workers` workers whose `torch.distributed` is up, and waits for its end.

    Args:
        loop: must pickle.
        scaling: the workers.
        name: of the Ray Train run.
        storage: folder for Ray Train's own state.
        monitor: actor whose `post` gets the figures that rank 0 reports, and whose `log` its lines.

    Raises:
        Exception: what a worker raised, as it raised it, where it was one of its own errors.
        WorkersLostError: any other end.
    """
    # With a range, workers that cannot all be placed any more had better be counted anew.
    start_s = scaling.wait_for_all_s + ELASTIC_START_S if scaling.min_workers else WORKER_GROUP_START_TIMEOUT_S
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(start_s)
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", str(PREEMPTION_POLL_S))
    trainer = ray.train.torch.TorchTrainer(
        partial(_worker, loop, monitor),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.num_workers, use_gpu=scaling.use_gpu, resources_per_worker=scaling.worker_resources
        ),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if scaling.use_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage.absolute()),
            # `pipeline.launch.attempts` retries: another attempt may have other workers and has its own ledger rows.
            failure_config=NO_RETRIES,
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _own_error(error) from error


def run_stage(run: StageRun, scaling: ScalingConfig, monitor: Any) -> None:
    """Trains one stage on Ray Train, once. `monitor` also has what `pipeline.launch.attempt_watch.AttemptWatch` has."""
    name = f"stage{run.stage_number}-{os.urandom(4).hex()}"
    run_workers(partial(_train_stage, run, monitor), scaling, name, run.output / "ray_train", monitor)


def _train_stage(
    run: StageRun,
    monitor: Any,
    device: torch.device,
    report: Callable[[dict[str, Any]], None],
    log: Callable[[str], None],
) -> None:
    rank = ray.train.get_context().get_world_rank()
    me = ray.get_runtime_context()
    monitor.joined.remote(rank, me.current_actor, f"process {os.getpid()} on node {me.get_node_id()[:8]}")
    on_heartbeat = monitor.heartbeat.remote if rank == 0 else _ignore
    if run.verify_only:  # leaves no file behind, and beside a run that trains none of its files is touched
        train_stage(run, device, report, log, _StopPoll(monitor), on_heartbeat)
        return
    watchdog = StepWatchdog(run.output, rank, run.stage.step_timeout_s, on_heartbeat)
    try:
        train_stage(run, device, report, log, _StopPoll(monitor), watchdog.heartbeat)
    finally:
        watchdog.close()


class _StopPoll:
    """Asks the board whether the stage is to end, and Ray Train whether nodes are about to go. Never waits: the board's
    answer is the one to the question of a step before."""

    def __init__(self, monitor: Any) -> None:
        self._monitor, self._asked = monitor, monitor.stop_requested.remote()

    def __call__(self) -> StopRequest | None:
        if leaving := announced_preemptions():
            nodes = ", ".join(node[:8] for node in leaving)
            return StopRequest("node", f"Ray announces that node {nodes} will be taken away")
        ready, _ = ray.wait([self._asked], timeout=0)
        if not ready:
            return None
        answer: StopRequest | None = ray.get(self._asked)
        self._asked = self._monitor.stop_requested.remote()
        return answer


def _worker(loop: Loop, monitor: Any) -> None:
    put_tools_on_path()
    device = ray.train.torch.get_device()
    context = ray.train.get_context()
    if device.type == "cpu":
        # DeepSpeed asks for these, and Ray Train sets them for the GPU backends only.
        os.environ |= {"LOCAL_SIZE": str(context.get_local_world_size()), "DS_ACCELERATOR": "cpu"}
    first = context.get_world_rank() == 0
    try:
        loop(device, monitor.post.remote if first else _ignore, monitor.log.remote if first else _ignore)
    finally:
        if first:
            ray.get(monitor.flush.remote())


def _ignore(*said: object) -> None:
    """What the other ranks report is the same."""


def _own_error(error: TrainingFailedError) -> BaseException:
    if not isinstance(error, WorkerGroupError):
        return WorkersLostError(_short(error))
    for failure in error.worker_failures.values():
        original = original_error(failure)
        if isinstance(original, OutageError):
            continue  # later it may go
        if isinstance(original, ValueError | ArithmeticError | CorruptionError | StoppedError):
            return original
    lost = [f"rank {rank}: {_short(failure)}" for rank, failure in sorted(error.worker_failures.items())]
    return WorkersLostError("; ".join(lost))


def _short(error: BaseException) -> str:
    """Its last line, as tracebacks end with what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:ERROR_CHARACTERS]
