"""Spending and forecast of a run, as plain values."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from pipeline.budget.forecast import forecast
from pipeline.budget.published import PUBLISHED
from pipeline.budget.spending import CATEGORIES, GROUPS, a100_factor, burn_rate, spending
from pipeline.config.recipe import Recipe
from pipeline.ledger.sums import sums_by
from pipeline.ledger.table import Ledger, records_of

COUNTS = ("steps", "samples", "tokens", "flop")


def report_object(recipe: Recipe, ledger: Ledger, budget: float, named: Mapping[str, str]) -> dict[str, Any]:
    """Returns all values of the report. Names include the units.

    Args:
        recipe: recipe of the run.
        ledger: ledger of the run.
        budget: GPU-days to compare with; 0 for the run's own limit, or else the recipe's planned budget.
        named: see `a100_factor`.

    Raises:
        UsageError: a device model cannot be mapped to a GPU.
    """
    table, spent = ledger.table, spending(ledger.table, recipe.heartbeat_s)
    kind = "GPU" if recipe.scaling.use_gpu else "CPU"
    of_kind = spent[(spent["gpu_model"] == "CPU") == (kind == "CPU")]
    total = float(of_kind["gpu_days"].sum())
    limit = float(table["run_budget_gpu_days"].iloc[-1]) or sum(recipe.plan.budget_gpu_days)
    budget = budget or limit
    rate = burn_rate(table, spent)
    expected = forecast(recipe, table, rate)
    models = [str(model) for model in spent["gpu_model"].unique() if model]
    factors = {model: factor for model in models if (factor := a100_factor(model, named)) is not None}
    a100 = sum(float(spent.loc[spent["gpu_model"] == model, "gpu_days"].sum()) * f for model, f in factors.items())
    return {
        "recipe": recipe.name,
        "time": time.time(),
        "device": kind,
        "gpu_days": total,
        "other_days": float(spent["gpu_days"].sum()) - total,
        "by_category": {name: float(of_kind[name].sum()) for name in CATEGORIES},
        "a100_gpu_days": a100 if kind == "GPU" else None,
        "a100_conversion": {
            model: f"{factor:.3g} A100 days a day (dense bf16 peaks)" for model, factor in factors.items()
        },
        "beside": PUBLISHED,
        "budget_gpu_days": budget or None,
        "share_of_budget": total / budget if budget else None,
        "burn_rate_gpu_days_a_day": rate,
        "forecast": asdict(expected) if expected else None,
        "by_job": _grouped(spent, table, ["job", "gpu_model"]),
        "by_stage": _grouped(spent[spent["stage"] != ""], table, ["job", "stage", "gpu_model"]),
        "by_attempt": _grouped(spent, table, [*GROUPS, "outcome"]),
        "by_gpu_model": _grouped(spent, table, ["gpu_model"]),
        "remarks": list(ledger.remarks),
    }


def _grouped(spent: pd.DataFrame, table: pd.DataFrame, names: list[str]) -> list[dict[str, Any]]:
    counted = spent.merge(table[["attempt", *COUNTS]], on="attempt")
    return records_of(sums_by(counted, names, ["gpu_days", *CATEGORIES, *COUNTS]))
