"""What `jobs/budget.py report` says, as plain values and as tables for a person."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd
from rich.table import Table

from jobs.common.forecast import forecast
from jobs.common.published import PUBLISHED
from jobs.common.recipe import Recipe
from jobs.common.spending import CATEGORIES, GROUPS, a100_factor, burn_rate, spending
from pipeline.ledger_account import SECONDS_PER_DAY
from pipeline.ledger_rows import Ledger, records_of

COUNTS = ("steps", "samples", "tokens", "flop")


def report_object(recipe: Recipe, ledger: Ledger, budget: float, named: Mapping[str, str]) -> dict[str, Any]:
    """Everything the report says; units stand in the names.

    Args:
        recipe: of the run.
        ledger: its.
        budget: GPU-days to compare with; 0 for the run's own limit, or what the recipe plans with.
        named: see `a100_factor`.

    Raises:
        UsageError: it is not known which GPU a model is.
    """
    table, spent = ledger.table, spending(ledger.table, recipe.heartbeat_s)
    kind = "GPU" if recipe.scaling.use_gpu else "CPU"
    of_kind = spent[(spent["gpu_model"] == "CPU") == (kind == "CPU")]
    total = float(of_kind["gpu_days"].sum())
    limit = float(table["run_budget_gpu_days"].iloc[-1]) or sum(recipe.plan.budget_gpu_days)
    budget = budget or limit
    held = burn_rate(table, spent)
    expected = forecast(recipe, table, held)
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
        "burn_rate_gpu_days_a_day": held,
        "forecast": asdict(expected) if expected else None,
        "by_job": _grouped(spent, table, ["job", "gpu_model"]),
        "by_stage": _grouped(spent[spent["stage"] != ""], table, ["job", "stage", "gpu_model"]),
        "by_attempt": _grouped(spent, table, [*GROUPS, "outcome"]),
        "by_gpu_model": _grouped(spent, table, ["gpu_model"]),
        "remarks": list(ledger.remarks),
    }


def _grouped(spent: pd.DataFrame, table: pd.DataFrame, names: list[str]) -> list[dict[str, Any]]:
    counted = spent.merge(table[["attempt", *COUNTS]], on="attempt")
    sums = counted.groupby(names, sort=False)[["gpu_days", *CATEGORIES, *COUNTS]].sum().reset_index()
    return records_of(sums)


def report_tables(figures: dict[str, Any]) -> list[Table]:
    """Tables for a person. Days are of the device that stands beside them."""
    unit = f"{figures['device']}-days"
    tables = []
    for key, names in (
        ("by_job", ("job", "gpu_model")),
        ("by_stage", ("stage", "gpu_model")),
        ("by_attempt", ("attempt", "outcome", "gpu_model")),
    ):
        table = Table(*(name.replace("_", " ") for name in names), "days", *CATEGORIES, title=key.replace("_", " "))
        for row in figures[key]:
            shares = (f"{row[name] / row['gpu_days']:.1%}" if row["gpu_days"] else "" for name in CATEGORIES)
            table.add_row(*(str(row[name]) for name in names), _days(row["gpu_days"]), *shares)
        tables.append(table)
    table = Table("", "", title=f"Run {figures['recipe']}", show_header=False)
    for name, value in summary_lines(figures, unit):
        table.add_row(name, value)
    return [*tables, table]


def summary_lines(figures: dict[str, Any], unit: str) -> list[tuple[str, str]]:
    """The run in a few lines."""
    lines = [("so far", _days(figures["gpu_days"], unit))]
    if figures["other_days"]:
        lines.append(
            ("beside them, CPU-days" if unit != "CPU-days" else "beside them, GPU-days", _days(figures["other_days"]))
        )
    lines += [(name, _days(days, unit)) for name, days in figures["by_category"].items()]
    if figures["budget_gpu_days"]:
        share = figures["share_of_budget"]
        lines.append(("budget", f"{figures['budget_gpu_days']:g} {unit}, {share:.1%} used"))
    lines.append(("burn rate", f"{figures['burn_rate_gpu_days_a_day']:g} {unit} a day now"))
    if expected := figures["forecast"]:
        when = ""
        if expected["left_s"] is not None and expected["left_gpu_days"]:
            when = time.strftime(", about %Y-%m-%d %H:%M", time.localtime(figures["time"] + expected["left_s"]))
        value = f"{_days(expected['gpu_days'], unit)}, between {expected['low']:.4g} and {expected['high']:.4g}{when}"
        lines.append(("when its stages end", value))
        lines.append(("", f"{expected['done_share']:.1%} of the FLOP done; {expected['basis']}"))
    if figures["a100_gpu_days"] is not None:
        lines.append(("A100-equivalent", _days(figures["a100_gpu_days"], "A100 GPU-days")))
        lines += [(f"  {model}", text) for model, text in figures["a100_conversion"].items()]
    else:
        lines.append(("A100-equivalent", "none: CPU-days are not converted"))
    lines += [(f"published: {name}", f"{days:,g} A100 GPU-days") for name, days in figures["beside"].items()]
    return lines


def _days(days: float, unit: str = "") -> str:
    """Of short runs, seconds too."""
    seconds = f"({days * SECONDS_PER_DAY:,.0f} s)" if 0 < days < 1 else ""
    return " ".join(filter(None, (f"{days:,.2f}" if days >= 1 else f"{days:.5f}", unit, seconds)))
