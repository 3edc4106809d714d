"""Runs the training loop on this machine's devices without Ray: to profile it, and to measure Ray's overhead."""

import json
import os
import socket
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.runtime.rank import Rank
from pipeline.step_figures import StepFigures
from pipeline.training.loop import train_stage
from pipeline.training.process import set_up_process
from pipeline.training.reporting import RecordingReporter
from pipeline.training.stage_run import StageRun


def run_stage_without_ray(run: StageRun, num_workers: int, use_gpu: bool, threads: int) -> list[StepFigures]:
    """Trains the stage with one process a rank.

    Args:
        run: the stage.
        num_workers: number of ranks; with `use_gpu`, at most the number of GPUs.
        use_gpu: one GPU a rank, nccl; else the CPU, gloo.
        threads: CPU threads of a rank.

    Returns:
        Rank 0's figures for every step.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["OMP_NUM_THREADS"] = str(threads)  # as torchrun and Ray set it, before the ranks import anything
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "figures.json"
        mp.spawn(_train, args=(run, num_workers, use_gpu, threads, port, result), nprocs=num_workers)
        return [StepFigures.from_json(line) for line in json.loads(result.read_text())]


def _train(rank: int, run: StageRun, world_size: int, use_gpu: bool, threads: int, port: int, result: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(threads)
    device = torch.device("cuda", rank) if use_gpu else torch.device("cpu")
    set_up_process(Rank(rank, world_size, rank, world_size), device)
    dist.init_process_group("nccl" if use_gpu else "gloo")
    reporter = RecordingReporter(print)
    train_stage(run, device, reporter)
    if rank == 0:
        result.write_text(json.dumps([figures.to_json() for figures in reporter.figures]))
    dist.barrier()
    os._exit(0)  # the process groups that DeepSpeed made would wait for each other at exit
