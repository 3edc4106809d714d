"""The two outputs of `jobs/budget.py`: what a run has spent, and what a recipe will cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.budget.cost_plan import as_object, plan_costs
from pipeline.budget.measured_rates import Rates, read_rates
from pipeline.budget.report import report_object
from pipeline.config.recipe import Recipe
from pipeline.errors import InputError
from pipeline.ledger.rows import read_ledger
from pipeline.reports.budget_page import write_page
from pipeline.reports.budget_tables import report_tables
from pipeline.reports.cost_tables import plan_tables
from pipeline.runs.paths import RunPaths
from pipeline.runtime.terminal import say, say_error, tables_to


def report_spending(
    recipe: Recipe, paths: RunPaths, budget: float, named: Mapping[str, str], page: Path, as_json: bool
) -> dict[str, Any]:
    """Shows what the run's ledger says, writes it as a page, and returns it.

    Args:
        recipe, paths: of the run.
        budget, named: see `report_object`.
        page: the file.
        as_json: see `tables_to`.

    Raises:
        InputError: the ledger has no rows.
        UsageError: it is not known which GPU a model is.
    """
    ledger = read_ledger(paths.ledger)
    if not len(ledger.table):
        raise InputError(f"the ledger in {paths.ledger!r} has no rows: no job of this run has started")
    figures = report_object(recipe, ledger, budget, named)
    for table in report_tables(figures):
        tables_to(as_json).print(table)
    for remark in ledger.remarks:
        say_error(remark)
    write_page(page, figures, ledger)
    say(f"budget: the page is {page}")
    return figures


def plan_spending(
    recipe: Recipe,
    gpu: str,
    mfu: float,
    encoder_mfu: float,
    measured: Sequence[str],
    price_per_gpu_hour: float,
    as_json: bool,
) -> dict[str, Any]:
    """Shows what the recipe will cost, and returns it.

    Args:
        recipe: with its overrides.
        gpu, mfu, encoder_mfu, price_per_gpu_hour: see `plan_costs`.
        measured: files and folders with measured rates, see `read_rates`.
        as_json: see `tables_to`.
    """
    rates = read_rates(tuple(measured)) if measured else Rates()
    figures = as_object(plan_costs(recipe, gpu, mfu, rates, encoder_mfu, price_per_gpu_hour))
    for table in plan_tables(figures):
        tables_to(as_json).print(table)
    return figures
