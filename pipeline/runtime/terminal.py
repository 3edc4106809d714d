"""Messages of a job to its user, on standard error. Standard output is for results."""

import sys
import time

from rich.console import Console

TABLE_WIDTH = 140
"""Columns of tables that do not go to a terminal."""

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Prints one line of progress, with the time of day."""
    console.print(f"{time.strftime('%H:%M:%S')}  {text}", markup=False)


def say_error(text: str) -> None:
    """Prints an error in red on one line; messages of libraries in it may have several lines."""
    console.print(" ".join(line.strip() for line in text.splitlines()), markup=False, style="red")


def tables_to(as_json: bool) -> Console:
    """The console for a job's tables: standard error with --json, so that standard output has only the object."""
    file = sys.stderr if as_json else sys.stdout
    return Console(file=file, width=None if file.isatty() else TABLE_WIDTH, highlight=False)
