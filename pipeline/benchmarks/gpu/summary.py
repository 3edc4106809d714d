"""The end of the benchmark: all figures of a run as one object, and the goals beside what was reached."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A figure of a part that has to reach a bound on an H100 or H200."""

    name: str
    part: str
    figure: str
    bound: float
    at_least: bool

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


GOALS = (
    Goal("mfu", "step", "mfu", 0.50, at_least=True),
    Goal("routed_over_dense", "baselines", "routed_over_dense", 0.92, at_least=False),
    Goal("encoder_mfu", "encoder", "mfu", 0.40, at_least=True),
)


def summary(parts: dict[str, dict[str, Any]], run: str, path: Path, seconds: float) -> dict[str, Any]:
    """Makes the object that the job prints.

    Args:
        parts: the parts' figures, errors and seconds, see `results_of`.
        run: the run's name in the file.
        path: the file.
        seconds: the whole run's seconds.

    Returns:
        `device`, the goals' figures by name (None where there is no number), also the MFU without DeepSpeed, `goals`
        with bound and verdict, and `parts`.
    """
    reached: dict[str, Any] = {}
    goals = {}
    for goal in GOALS:
        value = parts.get(goal.part, {"figures": {}})["figures"].get(goal.figure)
        number = value if isinstance(value, float | int) else None
        reached[goal.name] = number
        verdict = "not measured" if number is None else "reached" if goal.reached(number) else "missed"
        goals[goal.name] = f"{'at least' if goal.at_least else 'at most'} {goal.bound:g}: {verdict}"
    plain = parts.get("step_plain", {"figures": {}})["figures"].get("mfu")
    reached["mfu_without_deepspeed"] = plain if isinstance(plain, float | int) else None
    machine = parts.get("machine", {"figures": {}})["figures"]
    return {
        "run": run,
        "device": machine.get("device"),
        "seconds": seconds,
        "results": str(path),
        **reached,
        "goals": goals,
        "parts": parts,
    }
