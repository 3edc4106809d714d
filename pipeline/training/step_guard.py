"""Skips updates whose loss shows that something is wrong with the weights or the samples.

A step whose loss or gradient norm is not finite, or whose loss is far above the usual, is skipped: no rank applies its
update, and its samples are noted in a file. When several steps in a row are skipped, the weights may be at fault: they
are restored from the newest checkpoint and the samples since then are left out, as Chowdhery et al. 2022 (PaLM, section
5.1) did by hand. If that does not help, the run ends.
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any

SPIKE_WINDOW = 64
"""Number of recent steps whose losses a new loss is compared with."""
MIN_HISTORY = 16
"""Minimum number of losses before spikes are detected."""
GRADIENT_PROBLEM = "its gradient is not finite"


@dataclass
class StepGuard:
    """Judges the steps of a stage. All ranks see the same losses and so decide the same.

    Attributes:
        spike_factor: a loss above this multiple of the median of the last `SPIKE_WINDOW` is a spike; 0 turns the rule
            off.
        roll_back_after: number of skipped steps in a row that cause a roll back; 0 for never.
        end_after: number of skipped steps in a row that end the run.
        history: losses of the last `SPIKE_WINDOW` applied steps.
        consecutive_skips: steps skipped since the last applied one.
        skipped: all steps skipped in the stage.
    """

    spike_factor: float
    roll_back_after: int
    end_after: int
    history: deque[float] = field(default_factory=lambda: deque(maxlen=SPIKE_WINDOW))
    consecutive_skips: int = 0
    skipped: int = 0

    def problem(self, loss: float) -> str:
        """Returns why the update of a step with this loss must not be applied; empty if it may be."""
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if self.spike_factor and len(self.history) >= MIN_HISTORY:
            usual = statistics.median(self.history)
            if loss > self.spike_factor * usual:
                return f"its loss {loss:.4g} is more than {self.spike_factor:g} times the usual {usual:.4g}"
        return ""

    def note(self, loss: float, problem: str) -> None:
        """Counts a step, which was applied or was skipped for a problem."""
        if problem:
            self.consecutive_skips += 1
            self.skipped += 1
        else:
            self.consecutive_skips = 0
            self.history.append(loss)

    @property
    def must_roll_back(self) -> bool:
        """True if the weights must be rolled back now."""
        return self.consecutive_skips == self.roll_back_after > 0

    @property
    def must_end(self) -> bool:
        """True if too many steps in a row were skipped."""
        return self.consecutive_skips >= self.end_after

    def state(self) -> dict[str, Any]:
        """Returns the state that a checkpoint stores."""
        return {"history": list(self.history), "in_row": self.consecutive_skips, "skipped": self.skipped}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the state from a checkpoint."""
        self.history = deque(state["history"], maxlen=SPIKE_WINDOW)
        self.skipped = state["skipped"]
        # After a run ended on skipped steps and a person restarts it, the count begins anew.
        self.consecutive_skips = state["in_row"] if state["in_row"] < self.end_after else 0
