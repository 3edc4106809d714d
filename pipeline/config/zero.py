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
        reduce_bucket_size: elements of gradients that are reduced in one collective.
        secondary_partition_size: ranks, those of a node, that together keep a second copy of the weights from a step's
            first use on, so that later gathers of the step stay inside the node (ZeRO++'s hpZ); 1 for none. Used
            where there are more ranks, in whole nodes.
        whole_layers: under ZeRO-3, gather and release a layer as one, by one collective, in place of its ten tensors.
            `compile_layers` needs it. Gradient norms differ by rounding.
        saving_linear: compute linear layers with DeepSpeed's function for ZeRO-3, whose Python takes a quarter of the
            host's time. torch's own keeps a layer's gathered weights until its backward pass, if the layer is neither
            recomputed nor compiled. Results differ by rounding.
        frozen_whole: every rank holds the whole language expert, instead of a partition of it.
        dtype: `bfloat16` or `float32`.
    """

    zero_stage: int = 3
    persistence_threshold: int = 100_000
    max_live_parameters: int = 1_000_000_000
    prefetch_bucket_size: int = 50_000_000
    reduce_bucket_size: int = 500_000_000
    secondary_partition_size: int = 1
    whole_layers: bool = False
    saving_linear: bool = True
    frozen_whole: bool = False
    dtype: str = "bfloat16"

    def secondary_partition(self, world_size: int) -> int:
        """Returns the ranks that share a second copy of the weights, or 1 if there is none on so many ranks."""
        size = self.secondary_partition_size
        return size if self.zero_stage == 3 and world_size > size and world_size % size == 0 else 1
