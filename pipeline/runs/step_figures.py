"""The figures of a stage's steps, as its folder keeps them."""

import json
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


def read_step_figures(stage: Path) -> list[dict[str, Any]]:
    """The figures of every step that was run, in the order in which they ran, those of steps that were lost and run
    again too. A line that a crash of the machine left torn is passed over: its step ran, and its figures are gone.

    Args:
        stage: the stage's folder.
    """
    path = stage / METRICS_FILE
    if not path.exists():
        return []
    lines = (_parsed(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return [line for line in lines if isinstance(line, dict) and "step" in line]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
