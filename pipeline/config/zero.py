"""Partitioning by DeepSpeed's ZeRO."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ZeroConfig:
    """Settings for partitioning parameters, gradients and optimizer states.

    Attributes:
        zero_stage: 2 (gradients and optimizer) or 3 (parameters too).
        persistence_threshold: parameters with fewer elements are not partitioned.
        max_live_parameters: maximum elements of gathered parameters held at once.
        prefetch_bucket_size: elements gathered before they are used.
        frozen_whole: every rank holds the whole language expert, instead of a partition of it.
        dtype: `bfloat16` or `float32`.
    """

    zero_stage: int = 3
    persistence_threshold: int = 100_000
    max_live_parameters: int = 1_000_000_000
    prefetch_bucket_size: int = 50_000_000
    frozen_whole: bool = False
    dtype: str = "bfloat16"
