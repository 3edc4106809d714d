"""Ends a stage early on request: all ranks stop after the same step, with a checkpoint."""

from collections.abc import Callable

import torch
import torch.distributed as dist

from pipeline.runtime.agreement import from_first_rank
from pipeline.training.stop_request import StopRequest


def agreed_stop(stop_requested: Callable[[], StopRequest | None], device: torch.device) -> StopRequest | None:
    """Returns rank 0's `stop_requested` on every rank. Every rank calls it."""
    request = stop_requested() if dist.get_rank() == 0 else None
    exists = torch.tensor([request is not None], dtype=torch.int32, device=device)
    dist.broadcast(exists, src=0)
    if not exists.item():
        return None
    return from_first_rank(request)
