"""Partitioning by DeepSpeed's ZeRO."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ZeroConfig:
    """How parameters, gradients and optimizer states are partitioned.

    Attributes:
        zero_stage: 2 (gradients and optimizer) or 3 (parameters too).
        persistence_threshold: parameters with fewer elements stay whole on every rank.
        max_live_parameters: gathered parameters held at once, elements.
        prefetch_bucket_size: elements gathered ahead of their use.
        frozen_whole: every rank holds the language expert whole, instead of its part of it.
        dtype: `bfloat16` or `float32`.
    """

    zero_stage: int = 3
    persistence_threshold: int = 100_000
    max_live_parameters: int = 1_000_000_000
    prefetch_bucket_size: int = 50_000_000
    frozen_whole: bool = False
    dtype: str = "bfloat16"
