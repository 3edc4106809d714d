"""Ray Train, and the only place that knows its names: worker groups that run a loop on every rank."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from pipeline.deepspeed_engine import put_tools_on_path
from pipeline.errors import CorruptionError
from pipeline.train_loop import StageRun, train_stage

WORKER_GROUP_START_TIMEOUT_S = 1800
"""GPU nodes take minutes to start; Ray Train's own 60 s would tear the group down and ask for it again, for ever."""

Loop = Callable[[torch.device, Callable[[dict[str, Any]], None], Callable[[str], None]], None]
"""What a rank runs: with its device, and where figures and lines for whoever runs the job go."""


@dataclass(frozen=True)
class ScalingConfig:
    """The workers of a training job.

    Attributes:
        num_workers: ranks, one process each.
        use_gpu: one GPU a rank.
        cpus_per_worker: also the threads a rank computes with on a CPU.
        custom_resources: custom resources that each rank asks for, to keep it on some nodes.
    """

    num_workers: int = 2
    use_gpu: bool = False
    cpus_per_worker: int = 1
    custom_resources: dict[str, float] = field(default_factory=dict)

    @property
    def worker_resources(self) -> dict[str, float]:
        """What each rank asks Ray for, by Ray's names."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1} if self.use_gpu else {}) | self.custom_resources

    @property
    def num_cpus(self) -> int:
        """Of all workers."""
        return self.num_workers * self.cpus_per_worker

    @property
    def num_gpus(self) -> int:
        """Of all workers."""
        return self.num_workers if self.use_gpu else 0


def run_workers(loop: Loop, scaling: ScalingConfig, name: str, storage: Path, board: Any) -> None:
    """Runs `loop` on a group of workers whose `torch.distributed` is up, and waits for its end.

    Args:
        loop: must pickle.
        scaling: the workers.
        name: of the Ray Train run.
        storage: folder for Ray Train's own state.
        board: actor whose `post` gets the figures that rank 0 reports, and whose `tell` its lines.

    Raises:
        Exception: what a worker raised, as it raised it, where it was one of its own errors.
    """
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(WORKER_GROUP_START_TIMEOUT_S))
    trainer = ray.train.torch.TorchTrainer(
        partial(_worker, loop, board),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.num_workers,
            use_gpu=scaling.use_gpu,
            resources_per_worker=scaling.worker_resources,
        ),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if scaling.use_gpu else "gloo"),
        run_config=ray.train.RunConfig(name=name, storage_path=str(storage.absolute())),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _own_error(error) from error


def run_stage(run: StageRun, scaling: ScalingConfig, board: Any) -> None:
    """Trains one stage on Ray Train."""
    name = f"stage{run.stage_number}-{os.urandom(4).hex()}"
    run_workers(partial(train_stage, run), scaling, name, run.output / "ray_train", board)


def _worker(loop: Loop, board: Any) -> None:
    put_tools_on_path()
    device = ray.train.torch.get_device()
    context = ray.train.get_context()
    if device.type == "cpu":
        # DeepSpeed asks for these, and Ray Train sets them for the GPU backends only.
        os.environ |= {"LOCAL_SIZE": str(context.get_local_world_size()), "DS_ACCELERATOR": "cpu"}
    first = context.get_world_rank() == 0
    try:
        loop(device, board.post.remote if first else _ignore, board.tell.remote if first else _ignore)
    finally:
        if first:
            ray.get(board.flush.remote())


def _ignore(said: object) -> None:
    """What the other ranks report is the same."""


def _own_error(error: TrainingFailedError) -> BaseException:
    if isinstance(error, WorkerGroupError):
        for failure in error.worker_failures.values():
            original = getattr(failure, "_base_exc", failure)
            if isinstance(original, ValueError | ArithmeticError | CorruptionError):
                return original
    return error
