"""Searches the settings with which a cluster is predicted to train a recipe fastest."""

from dataclasses import dataclass
from itertools import product

from pipeline.config.machine_types import MachineType
from pipeline.planning.prediction import Prediction, Predictor, Settings

MICRO_BATCHES, RECOMPUTED = (1, 2, 4), (1, 2, 4, 0)
"""Values of `micro_batch_size` and `checkpoint_every_layers` that are tried."""
BATCH_FACTORS = (1, 2, 4)
"""Multiples of the recipe's `global_batch_size` that are tried. Learning rates would have to follow."""
SPARE = 0.15
"""Share of the memory that the best settings leave free: a plan does not include fragmentation, and sample pictures are
drawn beside the optimizer's states."""
WORTH = 0.05
"""A larger batch is named if it raises the MFU by at least this share."""


@dataclass(frozen=True)
class Best:
    """The fastest settings and their prediction. `larger_batch` is the best of those with a larger batch, or None if
    that gains too little."""

    settings: Settings
    prediction: Prediction
    larger_batch: "Best | None" = None


def best_settings(predictor: Predictor, machine: MachineType, ranks: int) -> Best | None:
    """Returns the fastest settings that leave `SPARE` of the memory free; None if none do.

    ZeRO-2 and ZeRO-3, each with and without a secondary partition of a node where that is possible, the micro-batches
    of `MICRO_BATCHES`, and recomputation of all layers, half, a quarter and none.
    """
    own = _fastest(predictor, machine, ranks, BATCH_FACTORS[0])
    if own is None:
        return None
    for factor in BATCH_FACTORS[1:]:
        larger = _fastest(predictor, machine, ranks, factor)
        if larger and larger.prediction.mfu.mid > own.prediction.mfu.mid * (1 + WORTH):
            return Best(own.settings, own.prediction, larger)
    return own


def _fastest(predictor: Predictor, machine: MachineType, ranks: int, factor: int) -> Best | None:
    partitionings = [(3, 1), (2, 1)] + ([(3, machine.gpus)] if ranks > machine.gpus else [])
    best = None
    for (zero_stage, size), micro_batch, every in product(partitionings, MICRO_BATCHES, RECOMPUTED):
        settings = Settings(zero_stage, size, micro_batch, every, factor)
        found = predictor.predict(machine, ranks, settings)
        peak = max(stage.peak_bytes for stage in found.stages)
        if peak <= found.memory_bytes * (1 - SPARE) and (best is None or found.mfu.mid > best.prediction.mfu.mid):
            best = Best(settings, found)
    return best
