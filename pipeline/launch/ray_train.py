"""The only module that knows Ray Train's names: worker groups that run a loop on every rank."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayActorError
from ray.train.v2.api.config import FailureConfig, RunConfig
from ray.train.v2.api.config import ScalingConfig as WorkersConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from pipeline.config.scaling import ScalingConfig
from pipeline.errors import CorruptionError, InputError, OutageError, StoppedError, WorkersLostError
from pipeline.runtime.placement import removing_what_a_failure_leaves
from pipeline.runtime.rank import Rank
from pipeline.runtime.ray_private import leave_ctrl_c_alone
from pipeline.training.process import set_up_process
from tokenization.files.checks import unwritable
from tokenization.files.room import is_full

WORKER_GROUP_START_TIMEOUT_S = 1800
"""GPU nodes take minutes to start. Ray Train's default of 60 s would tear the group down and request it again,
forever."""
ELASTIC_START_S = 300
PREEMPTION_POLL_S = 2
"""Seconds between two checks of Ray Train's watcher for nodes that are about to be removed. Its default of 5 s is a
large part of a notice of 30 s."""
HEALTH_CHECK_S, CHECKS_A_SECOND = 0.5, 128
"""Seconds between two looks of Ray Train at its workers, and how many workers it looks at in a second at most: a look
at one takes its controller 0.2 ms. Ray's default is 2 s; a lost worker is noticed half of it later on average."""
COLLECTIVE_TIMEOUT_S = 1800
"""Seconds after which a collective that some rank does not join is an error."""
GPU_ENVIRONMENT = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""Environment variables of GPU workers, where the user has set none. Rows and gathered weights have many sizes, which
would leave holes in fixed segments of the allocator."""
ERROR_CHARACTERS = 300
"""Maximum characters of a lost worker's error in the log line."""

NO_RETRIES: Any = FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0)


def worker_group(
    worker: Callable[[], None],
    scaling: ScalingConfig,
    name: str,
    storage: Path,
    environment: dict[str, str] | None = None,
) -> ray.train.torch.TorchTrainer:
    """Returns a trainer for a group of `scaling.num_workers` workers.

    `run_worker_group` runs `worker` on each rank with `torch.distributed` initialized.

    Args:
        worker: picklable; it calls `join_worker_group` first.
        scaling: number and resources of the workers.
        name: name of the Ray Train run.
        storage: folder for Ray Train's own state.
        environment: additional environment variables of the workers.
    """
    # With a range, count the workers anew when not all of them can be placed any more.
    start_s = scaling.wait_for_all_s + ELASTIC_START_S if scaling.min_workers else WORKER_GROUP_START_TIMEOUT_S
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(start_s)
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", str(PREEMPTION_POLL_S))
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(health_check_s(scaling.num_workers)))
    variables = (_gpu_environment() if scaling.use_gpu else {}) | (environment or {})
    run_config: Any = RunConfig(
        name=name,
        storage_path=str(storage.absolute()),
        # `pipeline.launch.attempts` retries: another attempt may have other workers, and has its own ledger rows.
        failure_config=NO_RETRIES,
        worker_runtime_env={"env_vars": variables} if variables else None,
    )
    workers: Any = WorkersConfig(
        num_workers=scaling.num_workers,
        use_gpu=scaling.use_gpu,
        resources_per_worker=scaling.worker_resources,
        label_selector=scaling.label_selector or None,
    )
    trainer = ray.train.torch.TorchTrainer(
        worker,
        scaling_config=workers,
        torch_config=ray.train.torch.TorchConfig(
            backend="nccl" if scaling.use_gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S
        ),
        run_config=run_config,
    )
    leave_ctrl_c_alone(trainer)
    return trainer


def health_check_s(workers: int) -> float:
    """Seconds between two looks at so many workers."""
    return max(HEALTH_CHECK_S, workers / CHECKS_A_SECOND)


def _gpu_environment() -> dict[str, str]:
    return {name: os.environ.get(name, value) for name, value in GPU_ENVIRONMENT.items()}


def run_worker_group(group: ray.train.torch.TorchTrainer) -> None:
    """Runs the workers of a `worker_group`, and waits for their end. A group that fails leaves its resources free.

    Raises:
        Exception, WorkersLostError: as `raising_errors_of_workers` does.
    """
    with raising_errors_of_workers(), removing_what_a_failure_leaves():
        group.fit()


@contextmanager
def raising_errors_of_workers() -> Iterator[None]:
    """Translates the errors of an enclosed `fit`.

    Raises:
        Exception: the worker's own error, unchanged, if it is one of the project's errors.
        WorkersLostError: for any other failure.
    """
    try:
        yield
    except TrainingFailedError as error:
        raise _error_of_worker(error) from error
    except RayActorError as error:  # the controller's: those of workers come as `TrainingFailedError`
        raise WorkersLostError(f"Ray Train's controller was lost: {_short(error)}") from error


@dataclass(frozen=True)
class WorkerContext:
    """A worker's rank and its group."""

    device: torch.device
    rank: int


def join_worker_group() -> WorkerContext:
    """Sets up the process of a worker, and returns its rank."""
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    rank = Rank(
        context.get_world_rank(),
        context.get_world_size(),
        context.get_local_rank(),
        context.get_local_world_size(),
    )
    set_up_process(rank, device)
    return WorkerContext(device, rank.rank)


def _error_of_worker(error: TrainingFailedError) -> BaseException:
    if not isinstance(error, WorkerGroupError):
        if is_full(error):
            return InputError(f"Ray Train: {_short(error)}; make room there, or choose another --root")
        return WorkersLostError(_short(error))
    for failure in error.worker_failures.values():
        if isinstance(failure, OutageError):
            continue  # another attempt may find it over
        if is_full(failure):
            return InputError(unwritable(failure))  # another attempt would meet it again
        if isinstance(failure, ValueError | ArithmeticError | CorruptionError | StoppedError):
            return failure
    lost = [f"rank {rank}: {_short(failure)}" for rank, failure in sorted(error.worker_failures.items())]
    return WorkersLostError("; ".join(lost))


def _short(error: BaseException) -> str:
    """Returns the error's last line: a traceback ends with its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:ERROR_CHARACTERS]
