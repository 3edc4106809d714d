"""The training loop on this machine's devices without Ray: to profile it, and to see what Ray costs."""

import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.training.loop import train_stage
from pipeline.training.stage_run import StageRun


def run_stage_without_ray(run: StageRun, num_workers: int, use_gpu: bool, threads: int) -> list[dict[str, Any]]:
    """Trains the stage with one process a rank.

    Args:
        run: the stage.
        num_workers: ranks, at most the number of GPUs where `use_gpu`.
        use_gpu: one GPU a rank, nccl; else the CPU, gloo.
        threads: of a rank's computation on the host.

    Returns:
        Rank 0's figures of every step.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["OMP_NUM_THREADS"] = str(threads)  # as torchrun and Ray set it, before the ranks import anything
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "figures.json"
        mp.spawn(_rank, args=(run, num_workers, use_gpu, threads, port, result), nprocs=num_workers)
        figures: list[dict[str, Any]] = json.loads(result.read_text())
        return figures


def _rank(rank: int, run: StageRun, world_size: int, use_gpu: bool, threads: int, port: int, result: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_SIZE": str(world_size)}
    torch.set_num_threads(threads)
    if use_gpu:
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        os.environ["DS_ACCELERATOR"] = "cpu"
    dist.init_process_group("nccl" if use_gpu else "gloo")
    figures: list[dict[str, Any]] = []
    train_stage(run, device, figures.append, print)
    if rank == 0:
        result.write_text(json.dumps(figures))
    dist.barrier()
    os._exit(0)  # the process groups that DeepSpeed made would otherwise wait for each other
