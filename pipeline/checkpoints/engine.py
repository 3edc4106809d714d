"""What checkpoints use of DeepSpeed's engine."""

from typing import Any, Protocol

import torch
from torch import nn


class ZeroOptimizer(Protocol):
    """A ZeRO optimizer. Which tensors hold its partitions depends on the ZeRO stage: see `optimizer_slices`."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW on this rank's partitions."""
        ...

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the optimizer that it wraps, as torch has them."""
        ...


class PartitionedEngine(Protocol):
    """An engine whose trained parameters ZeRO cut into partitions."""

    @property
    def module(self) -> nn.Module:
        """What was wrapped."""
        ...

    @property
    def optimizer(self) -> ZeroOptimizer:
        """The ZeRO optimizer around AdamW."""
        ...
