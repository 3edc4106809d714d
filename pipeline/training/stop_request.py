"""Requests to end a stage early. Imports no torch: the monitor's process needs none."""

from dataclasses import dataclass

from pipeline.errors import BudgetError, NodeLostError, PreemptedError, ResizeError, StoppedError, WorkersLostError

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
            reason = f"{self.reason}; no checkpoint could be written, and the next attempt resumes from the newest one"
            return WorkersLostError(reason) if self.kind in ("node", "resize") else StoppedError(reason)
        resume = "" if self.kind == "budget" else "; run the same command again to resume from it"
        return KINDS[self.kind](f"{self.reason}; a checkpoint was written{resume}")
