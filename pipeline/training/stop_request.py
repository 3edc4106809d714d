"""Ends a stage early on request: all ranks stop after the same step, with a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pipeline.errors import BudgetError, NodeLostError, PreemptedError, ResizeError, StoppedError, WorkersLostError
from pipeline.runtime.agreement import from_first_rank

KINDS: dict[str, type[StoppedError]] = {
    "preempted": PreemptedError,
    "node": NodeLostError,
    "budget": BudgetError,
    "resize": ResizeError,
}
"""Reasons to stop a stage, and the error that ends the loop for each."""


@dataclass(frozen=True)
class StopRequest:
    """A request to end the stage after the current step, or at the latest after the next one.

    Attributes:
        kind: one of `KINDS`.
        reason: text for the log.
    """

    kind: str
    reason: str

    def error(self, saved: bool) -> Exception:
        """Returns the error that ends the loop. `saved` is True if the checkpoint written for it is complete."""
        if not saved:
            reason = f"{self.reason}; no checkpoint could be written, what comes next goes on from the newest there is"
            return WorkersLostError(reason) if self.kind in ("node", "resize") else StoppedError(reason)
        goes_on = "" if self.kind == "budget" else ", the same command goes on from it"
        return KINDS[self.kind](f"{self.reason}; a checkpoint was written{goes_on}")


def agreed_stop(stop_requested: Callable[[], StopRequest | None], device: torch.device) -> StopRequest | None:
    """Returns rank 0's `stop_requested` on every rank. Every rank calls it."""
    request = stop_requested() if dist.get_rank() == 0 else None
    exists = torch.tensor([request is not None], dtype=torch.int32, device=device)
    dist.broadcast(exists, src=0)
    if not exists.item():
        return None
    return from_first_rank(request)
