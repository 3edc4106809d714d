"""Copies between device and host: what a checkpoint stalls training for."""

import time
from statistics import median

import torch

from pipeline.benchmarks.gpu.bench import GpuBench
from pipeline.benchmarks.gpu.parts import CUDA_ONLY
from pipeline.benchmarks.gpu.recorder import Recorder
from pipeline.planning.flops import count_parameters

BYTES, SMALL_BYTES = 2**30, 2**22
ROUNDS = 5
STATE_BYTES = 12
"""Bytes that a checkpoint has of each trained parameter: float32 weight and two moments."""


def measure(bench: GpuBench, record: Recorder) -> None:
    """Records GB/s from the device to host memory, pinned as checkpoints do it, and not; and the stall that follows."""
    num_bytes = BYTES if bench.on_gpu else SMALL_BYTES
    held = torch.ones(num_bytes // 4, device=bench.device)
    pageable = torch.empty(num_bytes // 4)
    rate = num_bytes / median(bench.seconds(lambda: pageable.copy_(held), ROUNDS))
    record.figures(to_pageable_gb_per_s=rate / 1e9)
    own_bytes = STATE_BYTES * count_parameters(bench.config).trainable / bench.ranks
    if not bench.on_gpu:
        record.figures(to_pinned_gb_per_s=CUDA_ONLY, checkpoint_stall_s=CUDA_ONLY, checkpoint_bytes_of_a_rank=own_bytes)
        return
    started = time.perf_counter()
    pinned = torch.empty(num_bytes // 4, pin_memory=True)
    record.figures(pinning_s_per_gb=(time.perf_counter() - started) / (num_bytes / 1e9))
    rate = num_bytes / median(bench.seconds(lambda: pinned.copy_(held, non_blocking=True), ROUNDS))
    record.figures(
        to_pinned_gb_per_s=rate / 1e9, checkpoint_bytes_of_a_rank=own_bytes, checkpoint_stall_s=own_bytes / rate
    )
