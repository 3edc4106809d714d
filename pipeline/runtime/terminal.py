"""What a job says to whoever runs it, on standard error: standard output is for results."""

import sys
import time

from rich.console import Console

TABLE_WIDTH = 140
"""Columns of what does not go to a terminal."""

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line of progress for a person, with the time of day."""
    console.print(f"{time.strftime('%H:%M:%S')}  {text}", markup=False)


def say_error(text: str) -> None:
    """What is wrong, in one line and red; libraries' messages inside it may have several."""
    console.print(" ".join(line.strip() for line in text.splitlines()), markup=False, style="red")


def tables_to(as_json: bool) -> Console:
    """Where a job's tables go: with --json to standard error, so that standard output is the object alone."""
    file = sys.stderr if as_json else sys.stdout
    return Console(file=file, width=None if file.isatty() else TABLE_WIDTH, highlight=False)
