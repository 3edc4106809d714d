"""Shows the figures that a job has measured."""

from collections.abc import Iterator
from typing import Any

from pipeline.runtime.terminal import console


def show(figures: dict[str, Any]) -> None:
    """Prints the figures as a table."""
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in _rows(figures):
        table.add_row(
            name,
            f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value),
        )
    console.print(table)


def _rows(figures: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The names and values of nested figures, as in `parts.step.mfu`."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
