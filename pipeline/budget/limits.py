"""Limits of a stage and a run: set by `--budget-gpu-days`, kept in the ledger, checked at each start."""

import math

from pipeline.errors import BudgetError, UsageError
from pipeline.ledger.account import DayLimits
from pipeline.ledger.rows import days_of, last_rows
from pipeline.runs.paths import RunPaths

SCOPES = ("stage", "run")


def given_limits(words: tuple[str, ...]) -> dict[str, float]:
    """Parses limits: `300` or `stage=300` limits the stage, `run=587` the run, and 0 removes a limit.

    Raises:
        UsageError: the text has another form.
    """
    found: dict[str, float] = {}
    for word in words:
        scope, separator, text = word.rpartition("=")
        scope = scope if separator else "stage"
        try:
            days = float(text)
        except ValueError:
            days = math.nan
        if scope not in SCOPES or not 0 <= days < math.inf:
            raise UsageError(
                f"--budget-gpu-days {word!r}: write the days that the stage may take, as in 300 or stage=300, or those "
                "of the run, as in run=587; 0 for no limit"
            )
        if scope in found:
            raise UsageError(f"--budget-gpu-days gives the {scope} two limits, {found[scope]:g} and {days:g}")
        found[scope] = days
    return found


def limits_of(paths: RunPaths, number: int, given: dict[str, float]) -> DayLimits:
    """Returns the limits for the next attempt at stage `number`: the given ones, or those of the previous attempt.

    Raises:
        BudgetError: one of them is already spent.
    """
    (rows, _), device = last_rows(paths.ledger), "GPU" if paths.recipe.scaling.use_gpu else "CPU"
    trained = [row for row in rows if row["job"] == "train_stage"]
    of_stage = [row for row in trained if row["stage"] == str(number)]
    stage = float(of_stage[-1]["budget_gpu_days"]) if of_stage else 0.0
    run = float(trained[-1]["run_budget_gpu_days"]) if trained else 0.0
    spent = days_of(rows, "train_stage", str(number), device)
    limits = DayLimits(given.get("stage", stage), given.get("run", run))
    for scope, name, used, limit in (
        ("stage", f"stage {number}", spent[0], limits.stage_gpu_days),
        ("run", f"run {paths.recipe.name!r}", spent[1], limits.run_gpu_days),
    ):
        if limit and used >= limit:
            raise BudgetError(
                f"{name} has used {used:.6g} of its {limit:.6g} {device}-days; to go on, raise the limit with "
                f"--budget-gpu-days {scope}=DAYS, or take it away with {scope}=0"
            )
    return limits
