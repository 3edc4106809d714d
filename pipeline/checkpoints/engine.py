"""Protocols for the parts of DeepSpeed's engine that checkpoints use."""

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
        """The parameter groups of the wrapped optimizer, in torch's format."""
        ...


class PartitionedEngine(Protocol):
    """An engine whose trained parameters are partitioned by ZeRO."""

    @property
    def module(self) -> nn.Module:
        """The module that DeepSpeed wraps."""
        ...

    @property
    def optimizer(self) -> ZeroOptimizer:
        """The ZeRO optimizer around AdamW."""
        ...
