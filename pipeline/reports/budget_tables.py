"""The contents of `jobs/budget.py report`, as plain values and as tables for a person."""

import time
from typing import Any

from rich.table import Table

from pipeline.budget.spending import CATEGORIES
from pipeline.config.units import SECONDS_PER_DAY


def report_tables(figures: dict[str, Any]) -> list[Table]:
    """Tables for a person. The unit of days is the device in the same row."""
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
    """Summarises the run in a few lines."""
    lines = [("so far", _days(figures["gpu_days"], unit))]
    if figures["other_days"]:
        lines.append(
            ("in addition, CPU-days" if unit != "CPU-days" else "in addition, GPU-days", _days(figures["other_days"]))
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
    """Formats days with their unit; below one day, seconds as well."""
    seconds = f"({days * SECONDS_PER_DAY:,.0f} s)" if 0 < days < 1 else ""
    return " ".join(filter(None, (f"{days:,.2f}" if days >= 1 else f"{days:.5f}", unit, seconds)))
