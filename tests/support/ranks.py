"""Trains a small stage on several processes of this machine."""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.checkpoints.manifest import newest_complete
from pipeline.config.stage import StageConfig
from pipeline.errors import CorruptionError, InputError, NonFiniteError, StoppedError
from pipeline.step_figures import StepFigures
from pipeline.training.loop import train_stage
from pipeline.training.stage_run import StageRun
from pipeline.training.step import StepResult
from pipeline.training.stop_request import StopRequest
from tests.support.forkserver import forkserver
from tests.support.ports import free_port
from tests.support.small_models import CODEBOOK
from tokenization.config.vqgan import VqganConfig

VQGAN = VqganConfig(block_out_channels=(8, 8, 8, 8, 8), latent_channels=4, codebook_size=CODEBOOK)

Undisturbed = Callable[..., tuple[StageRun, list[dict]]]
"""Called with settings of ZeRO: the small run on two ranks that nothing disturbs, and its figures of each step."""

STAGE = StageConfig(
    purpose="test",
    task_shares={"text_to_image": 0.4, "captioning": 0.3, "high_resolution": 0.3},
    high_resolution_group=4,
    steps=6,
    global_batch_size=8,
    micro_batch_size=1,
    seq_len=64,
    row_multiple=8,
    learning_rate=1e-3,
    warmup_steps=2,
    table_rate_factor=2.0,
    save_every_steps=3,
    validate_every_steps=3,
    validation_rows=2,
    sample_every_steps=3,
    sample_prompts=("a", "b c"),
)


@dataclass(frozen=True)
class Launch:
    """A training on several processes.

    Attributes:
        run: stage to train.
        port: port at which rank 0 waits for the others.
        figures: file for rank 0's figures of each step.
        stop_after: step after which the processes end as if they were killed.
        before_step: called with the rank and the number of the step to come; with 0 before training begins.
        environment: additional environment variables of the processes.
        stop: a step, and the stop that is requested at its end.
        ranks_per_node: ranks that count as those of one machine; 0 for all.
    """

    world_size: int
    run: StageRun
    port: int
    figures: Path
    stop_after: int | None = None
    before_step: Callable[[int, int], None] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    stop: tuple[int, StopRequest] | None = None
    ranks_per_node: int = 0


def on_ranks(world_size: int, run: StageRun, **how: Any) -> list[dict]:
    """Trains on gloo processes with the given attributes of `Launch`. Returns rank 0's figures for each step."""
    launch = Launch(world_size, run, free_port(), run.output.with_name(f"figures-{os.urandom(4).hex()}.pt"), **how)
    before = _shared_memory(launch.port)  # of a killed process that happened to have this port
    spawn(_rank, world_size, launch)
    left = _shared_memory(launch.port) - before
    assert not left, f"{left}: memory of every run would stay taken until the machine restarts"
    figures: list[dict] = torch.load(launch.figures, weights_only=False)
    return figures


def _shared_memory(port: int) -> set[Path]:
    return set(Path("/dev/shm").glob(f"deepspeed_*_{port}_*"))


def spawn(rank: Callable, world_size: int, *args: Any) -> None:
    """Runs one process for each rank, forked from one that has imported everything they need."""
    forkserver()
    mp.start_processes(rank, args, nprocs=world_size, start_method="forkserver")


def join(rank: int, world_size: int, port: int, ranks_per_node: int = 0) -> None:
    """Joins a gloo group that compares every collective with those of the other ranks."""
    torch.set_num_threads(1)
    on_node = ranks_per_node or world_size
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank % on_node)}
    os.environ |= {"WORLD_SIZE": str(world_size), "LOCAL_SIZE": str(on_node)}
    dist.init_process_group("gloo")


@dataclass
class NotingReporter:
    """A rank's reporter that writes lines to a file, and requests a stop from a given step on."""

    run: StageRun
    stop: tuple[int, StopRequest] | None
    figures: list[StepFigures] = field(default_factory=list)

    def post(self, figures: StepFigures) -> None:
        self.figures.append(figures)

    def log(self, line: str) -> None:
        _note(self.run, line)

    def heartbeat(self) -> None:
        pass

    def stop_requested(self) -> StopRequest | None:
        due = self.stop and self.figures and self.figures[-1].step >= self.stop[0]
        return self.stop[1] if self.stop and due else None


def _rank(rank: int, launch: Launch) -> None:
    os.environ |= launch.environment
    run = launch.run
    join(rank, launch.world_size, launch.port, launch.ranks_per_node)
    reporter = NotingReporter(run, launch.stop)
    _watch_steps(rank, launch)
    try:
        train_stage(run, torch.device("cpu"), reporter)
    except _Killed:
        pass
    except (NonFiniteError, CorruptionError, InputError, StoppedError) as error:
        if rank == 0:
            _note(run, f"{type(error).__name__}: {error}")
    if rank == 0:
        torch.save([figures.to_json() for figures in reporter.figures], launch.figures)
        if launch.stop_after is not None:
            wait_for_checkpoint(run, reporter.figures[-1].step)
    dist.barrier()
    os._exit(0)  # the process groups that DeepSpeed made would wait for each other at exit


def _note(run: StageRun, line: str) -> None:
    with Path(f"{run.output}.told").open("a") as file:
        file.write(line + "\n")


def wait_for_checkpoint(run: StageRun, steps: int) -> None:
    """Waits for the checkpoint, which is written in the background: a process that ended at once would cut it off."""
    due = steps // run.stage.save_every_steps * run.stage.save_every_steps
    while (found := newest_complete(run.checkpoints)) is None or found.manifest.step < due:
        time.sleep(0.1)


class _Killed(BaseException):
    pass


def _watch_steps(rank: int, launch: Launch) -> None:
    """Stops the loop when it starts a step after `stop_after`, as a kill between two checkpoints would."""
    import pipeline.training.loop as loop

    real, count = loop.train_step, itertools.count(1)
    if launch.before_step:
        launch.before_step(rank, 0)

    def counted(*args: Any, **kwargs: Any) -> StepResult:
        number = next(count)
        if launch.stop_after is not None and number > launch.stop_after:
            raise _Killed
        if launch.before_step:
            launch.before_step(rank, number)
        return real(*args, **kwargs)

    loop.train_step = counted


def named(run: StageRun, name: str) -> StageRun:
    """Returns the same run in another folder."""
    output = run.output.with_name(name)
    return replace(run, output=output, checkpoints=str(output / "checkpoints"))


def losses(figures: list[dict]) -> list[float]:
    return [
        value for each in figures for name, value in sorted(each.items()) if name.startswith(("loss/", "validation/"))
    ]
