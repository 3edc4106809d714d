"""What a job says to whoever runs it, on standard error: standard output is for results."""

import time

from rich.console import Console

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line of progress for a person, with the time of day."""
    console.print(f"{time.strftime('%H:%M:%S')}  {text}", markup=False)


def complain(text: str) -> None:
    """What is wrong, in one line and red; libraries' messages inside it may have several."""
    console.print(" ".join(line.strip() for line in text.splitlines()), markup=False, style="red")
