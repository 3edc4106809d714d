"""Builds the command line of a job, to run it in a process of its own."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.runs.paths import PROJECT


def job_command(job: str, recipe: str, root: Path | str = "", overrides: Sequence[str] = ()) -> list[str]:
    """Returns the words that run `jobs/JOB.py` with this Python and values for `--recipe`, `--root`, `--set`."""
    words = [sys.executable, "-P", str(PROJECT / "jobs" / f"{job}.py"), "--recipe"]
    words.append(str(Path(recipe).absolute()) if recipe.endswith(".py") else recipe)  # the process may run elsewhere
    if root:
        words += ["--root", str(root)]
    return words + [word for override in overrides for word in ("--set", override)]
