"""The loss over the text vocabulary by the size of its chunks of logits."""

from statistics import median

import torch

from pipeline.benchmarks.gpu.bench import GpuBench
from pipeline.benchmarks.gpu.recorder import Recorder
from pipeline.config.model_sizes import LOSS_CHUNK_BYTES
from pipeline.config.vocabulary import State
from pipeline.model.head import JointHead

MIB = 2**20
CHUNK_MIB, SMALL_CHUNK_MIB = (16, 64, 256, 512, 1024), (1, 2)
LABELS, SMALL_LABELS = (624, 936), (8,)
"""Captions' labels of a row of 8, and of one of 12 samples."""
ROUNDS = 5


def measure(bench: GpuBench, record: Recorder) -> None:
    """Records milliseconds of forward and backward pass by labels and MiB of a chunk, and the chunk of training."""
    torch.manual_seed(0)
    with bench.device:
        head = JointHead(bench.config).to(bench.dtype)
    head.text_weight.requires_grad_(False)
    kept = LOSS_CHUNK_BYTES[bench.device.type]
    record.figures(chunk_mib_in_training=kept // MIB)
    try:
        for labels in LABELS if bench.on_gpu else SMALL_LABELS:
            for mib in CHUNK_MIB if bench.on_gpu else SMALL_CHUNK_MIB:
                LOSS_CHUNK_BYTES[bench.device.type] = mib * MIB  # this process measures nothing else
                seconds = median(bench.seconds(lambda: _run(bench, head, labels), ROUNDS, warmup=2))  # noqa: B023
                record.figures(**{f"ms_of_{labels}_labels_in_{mib}_mib": 1e3 * seconds})
    finally:
        LOSS_CHUNK_BYTES[bench.device.type] = kept


def _run(bench: GpuBench, head: JointHead, labels: int) -> None:
    config, device = bench.config, bench.device
    hidden = torch.randn(labels, config.hidden_size, device=device, dtype=bench.dtype, requires_grad=True)
    ids = torch.randint(config.text_vocab_size, (labels,), device=device)
    loss, _ = head(hidden, State.TEXT, ids, torch.full((labels,), 1 / labels, device=device))
    loss.backward()
