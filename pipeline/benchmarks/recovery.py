"""How long a training took from a kill to its next step, and what it did in that time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.benchmarks.fault_injection import Kill
from pipeline.step_figures import AttemptStart, read_step_figures

UNTIL_ATTEMPT = "attempt"
"""Part of a recovery from the kill until the next attempt begins. The others are those of `AttemptStart`."""


@dataclass(frozen=True)
class Recovery:
    """A training's way from a kill to its next step.

    Attributes:
        kind: kind of the kill.
        parts: seconds of its parts in their order.
    """

    kind: str
    parts: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())


def recoveries(kills: Sequence[Kill], starts: Sequence[AttemptStart]) -> list[Recovery]:
    """Returns the recovery from each kill after which a step was done before the next kill.

    Args:
        kills: the kills in their order.
        starts: the starts of all attempts that did a step, in their order.
    """
    found = []
    for number, kill in enumerate(kills):
        next_at = kills[number + 1].at if number + 1 < len(kills) else float("inf")
        start = next((each for each in starts if each.began_at > kill.at), None)
        if start and start.began_at + sum(start.seconds.values()) < next_at:
            found.append(Recovery(kill.kind, {UNTIL_ATTEMPT: start.began_at - kill.at, **start.seconds}))
    return found


def recovery_figures(kills: Sequence[Kill], stage: Path) -> dict[str, Any]:
    """Returns, by kind of kill, the median and the longest seconds to the next step, and the medians of the parts."""
    starts = [figures.start for figures in read_step_figures(stage) if figures.start]
    found = recoveries(kills, starts)
    return {kind: _summary([each for each in found if each.kind == kind]) for kind in sorted({r.kind for r in found})}


def _summary(found: Sequence[Recovery]) -> dict[str, Any]:
    seconds = [each.seconds for each in found]
    return {
        "recoveries": len(found),
        "median_s": median(seconds),
        "worst_s": max(seconds),
        "parts_s": {part: median(each.parts[part] for each in found) for part in found[0].parts},
    }
