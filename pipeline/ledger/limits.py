"""Warns when a stage or a run comes near its limit, and asks for its end at the limit."""

from dataclasses import dataclass

from pipeline.ledger.account import Attempt

WARN_AT = (0.8, 0.95)
"""Shares of a limit at which there is a warning."""


@dataclass(frozen=True)
class Spent:
    """Days spent so far on the attempt's kind of device: its own, and all attempts' of its stage and run."""

    attempt: float
    stage: float
    run: float


class LimitWatch:
    """Watches the limits of one attempt. Warns once at each share, and asks for the end at the whole limit."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt, self._warned_at = attempt, dict[str, float]()

    def check(self, spent: Spent) -> tuple[list[str], str]:
        """Returns new warnings, and why the stage must end after its next step (empty if it need not)."""
        attempt, warnings, stop = self._attempt, list[str](), ""
        for name, scope, used, limit in (
            (f"stage {attempt.stage}", "stage", spent.stage, attempt.budget_gpu_days),
            (f"run {attempt.run!r}", "run", spent.run, attempt.run_budget_gpu_days),
        ):
            if not limit:
                continue
            used_line = f"{name} has used {used:.6g} of its {limit:.6g} {attempt.device}-days ({used / limit:.0%})"
            raise_it = f"raise the limit with --budget-gpu-days {scope}=DAYS"
            reached = max((share for share in WARN_AT if used >= share * limit), default=0.0)
            if used >= limit:
                stop = stop or f"{used_line}; to go on, {raise_it}"
            elif reached > self._warned_at.get(scope, 0.0):
                self._warned_at[scope] = reached
                warnings.append(
                    f"BUDGET: {used_line}; at 100% it stops, with a checkpoint. To go on beyond, {raise_it}"
                )
        return warnings, stop
