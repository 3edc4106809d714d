"""Keeps updates away from the weights whose loss says that something is wrong, with them or with their samples.

A step whose loss is not finite, or far above the usual, is skipped: no rank applies its update, and its samples are
noted in a file. So is one of which only the gradient is not finite. Where several are skipped in a row, the weights
themselves may be at fault: they go back to the newest checkpoint, and the samples since then stay behind, as Chowdhery
et al. 2022 (PaLM, section 5.1) did by hand. Where that does not help, the run ends.
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any

SPIKE_WINDOW = 64
"""Steps whose losses a loss is compared with."""
MIN_HISTORY = 16
"""Fewer say nothing yet."""
GRADIENT_PROBLEM = "its gradient is not finite"


@dataclass
class StepGuard:
    """Judges the steps of a stage; the same on every rank, as all of them see the same losses.

    Attributes:
        spike_factor: a loss above this multiple of the median of the last `SPIKE_WINDOW` is a spike; 0 for no rule.
        roll_back_after: so many skipped steps in a row send the weights back; 0 for never.
        end_after: so many end the run.
        history: losses of the steps that were applied, the last `SPIKE_WINDOW`.
        in_row: steps skipped since the last one that was applied.
        skipped: all of the stage.
    """

    spike_factor: float
    roll_back_after: int
    end_after: int
    history: deque[float] = field(default_factory=lambda: deque(maxlen=SPIKE_WINDOW))
    in_row: int = 0
    skipped: int = 0

    def problem(self, loss: float) -> str:
        """Why the update of a step of this loss must not be applied; empty where it may."""
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if self.spike_factor and len(self.history) >= MIN_HISTORY:
            usual = statistics.median(self.history)
            if loss > self.spike_factor * usual:
                return f"its loss {loss:.4g} is more than {self.spike_factor:g} times the usual {usual:.4g}"
        return ""

    def note(self, loss: float, problem: str) -> None:
        """Counts a step that was applied, or skipped for a problem."""
        if problem:
            self.in_row += 1
            self.skipped += 1
        else:
            self.in_row = 0
            self.history.append(loss)

    @property
    def must_roll_back(self) -> bool:
        """Whether the weights are to go back now."""
        return self.in_row == self.roll_back_after > 0

    @property
    def must_end(self) -> bool:
        """Whether too many steps were skipped in a row."""
        return self.in_row >= self.end_after

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"history": list(self.history), "in_row": self.in_row, "skipped": self.skipped}

    def load(self, state: dict[str, Any]) -> None:
        """Takes up what a checkpoint kept."""
        self.history = deque(state["history"], maxlen=SPIKE_WINDOW)
        self.skipped = state["skipped"]
        # A run that ended on skipped steps counts anew when somebody has looked and goes on.
        self.in_row = state["in_row"] if state["in_row"] < self.end_after else 0
