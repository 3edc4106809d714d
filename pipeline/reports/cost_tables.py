"""The implementation of `jobs/budget.py plan`, which shows what a recipe will cost."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from pipeline.budget.cost_plan import as_object, plan_costs
from pipeline.budget.measured_rates import MeasuredRates, read_rates
from pipeline.budget.published import PUBLISHED
from pipeline.config.recipe import Recipe
from pipeline.runtime.terminal import tables_to

PARTS = ("training", "tokenization", "checkpoints", "starting", "waiting")


def plan_spending(
    recipe: Recipe,
    gpu: str,
    mfu: float,
    encoder_mfu: float,
    measured: Sequence[str],
    price_per_gpu_hour: float,
    as_json: bool,
) -> dict[str, Any]:
    """Shows what the recipe will cost, and returns the plan.

    Args:
        recipe: recipe with its overrides.
        gpu, mfu, encoder_mfu, price_per_gpu_hour: see `plan_costs`.
        measured: files and folders with measured rates; see `read_rates`.
        as_json: see `tables_to`.
    """
    rates = read_rates(tuple(measured)) if measured else MeasuredRates()
    figures = as_object(plan_costs(recipe, gpu, mfu, rates, encoder_mfu, price_per_gpu_hour))
    for table in plan_tables(figures):
        tables_to(as_json).print(table)
    return figures


def plan_tables(figures: dict[str, Any]) -> list[Table]:
    """Returns the tables for the output of `pipeline.budget.cost_plan.as_object`."""
    return [_factors(figures), _costs(figures), _sensitivities(figures)]


def _factors(figures: dict[str, Any]) -> Table:
    table = Table("factor", "value", "", "from", title=f"What the plan of {figures['recipe']} rests on")
    for name, factor in figures["factors"].items():
        value = factor["value"]
        table.add_row(
            name, f"{value:,.4g}" if isinstance(value, float) else f"{value}", factor["unit"], factor["source"]
        )
    return table


def _costs(figures: dict[str, Any]) -> Table:
    how = "at an ASSUMED MFU" if figures["assumed"] else "at the measured rate"
    table = Table("planned", *PARTS, f"{figures['device']} days", "A100 days", title=f"Planned, {how}")
    for name in ("of SD1.5's 6,250", "of the paper's 587"):
        table.add_column(name)
    priced = figures["price"] is not None
    if priced:
        table.add_column("price")
    rows = [
        ("tokenization", figures["tokenization"]),
        *((f"stage {part['stage']}", part) for part in figures["stages"]),
    ]
    sums = {name: sum(part[name] for _, part in rows) for name in PARTS}
    for name, part in [*rows, ("in all", figures | sums)]:
        if name == "in all":
            table.add_section()
        cells = [f"{part[each]:,.2f}" for each in PARTS] + [f"{part['gpu_days']:,.4g}"]
        cells.append("none" if part["a100_gpu_days"] is None else f"{part['a100_gpu_days']:,.1f}")
        cells += ["" if part[each] is None else f"{part[each]:.1%}" for each in ("share_of_sd15", "share_of_paper")]
        table.add_row(name, *cells, *([f"{part['price']:,.0f}"] if priced else []))
    table.add_section()
    for name, days in PUBLISHED.items():
        table.add_row(f"published: {name}", *[""] * (len(PARTS) + 1), f"{days:,g}")
    return table


def _sensitivities(figures: dict[str, Any]) -> Table:
    title = f"What moves it most: {figures['moves_most']}"
    table = Table("change", "days", "money", title=title)
    for name, moves in figures["sensitivities"].items():
        table.add_row(name, f"{moves['gpu_days']:+.1%}", f"{moves['money']:+.1%}")
    return table
