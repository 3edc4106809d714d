"""A job as a command, to run it in a process of its own."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.runs.paths import PROJECT


def job_command(job: str, recipe: str, root: Path | str = "", overrides: Sequence[str] = ()) -> list[str]:
    """The words that run `jobs/JOB.py` with this Python, with what `--recipe`, `--root` and `--set` take."""
    words = [sys.executable, "-P", str(PROJECT / "jobs" / f"{job}.py"), "--recipe"]
    words.append(str(Path(recipe).absolute()) if recipe.endswith(".py") else recipe)  # the process may run elsewhere
    if root:
        words += ["--root", str(root)]
    return words + [word for override in overrides for word in ("--set", override)]
