"""Random micro-batches of kinds that the measured stage does not have."""

import numpy as np

from pipeline.benchmarks.gpu.bench import GpuBench
from pipeline.config.tasks import Kind, Task
from pipeline.config.vocabulary import Role
from pipeline.data.collate import MicroBatch, collate

SAMPLES = 2


def high_resolution_batch(bench: GpuBench, group_size: int) -> MicroBatch:
    """Two rows of one high-resolution sample each, with groups of `group_size` codes, on the device."""
    random, lengths = np.random.default_rng(0), bench.lengths
    rows = [
        [
            bench.builder.high_resolution(
                bench.caption_ids(random),
                bench.codes(random, lengths.num_codes),
                bench.codes(random, lengths.num_high_codes),
                Role.HIGH_1,
                group_size,
            )
        ]
        for _ in range(SAMPLES)
    ]
    weights = [1 / (SAMPLES * lengths.num_high_codes)] * len(Task)
    return collate(Kind.HIGH_RESOLUTION, rows, bench.config.vocabulary, weights, bench.stage.row_multiple).to(
        bench.device
    )
