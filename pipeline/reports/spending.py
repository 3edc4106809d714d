"""The implementation of `jobs/budget.py report`, which shows what a run has spent, and writes the page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.budget.report import report_object
from pipeline.config.recipe import Recipe
from pipeline.errors import InputError
from pipeline.ledger.table import read_ledger
from pipeline.reports.budget_page import write_page
from pipeline.reports.budget_tables import report_tables
from pipeline.runs.paths import RunPaths
from pipeline.runtime.terminal import say, say_error, tables_to


def report_spending(
    recipe: Recipe, paths: RunPaths, budget: float, named: Mapping[str, str], page: Path, as_json: bool
) -> dict[str, Any]:
    """Shows the run's spending and forecast, writes them as a page, and returns them.

    Args:
        recipe, paths: recipe and paths of the run.
        budget, named: see `report_object`.
        page: file of the page.
        as_json: see `tables_to`.

    Raises:
        InputError: the ledger has no rows.
        UsageError: a device model cannot be mapped to a GPU.
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
