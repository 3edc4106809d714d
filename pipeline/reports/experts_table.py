"""Where the comparison of two experts with one lies in a run, and its figures side by side."""

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.evaluation.expert_comparison import EXPERTS
from pipeline.runs.paths import RunPaths

RECORDS_FILE, SUMMARY_FILE, PLOT_FILE = "records.jsonl", "experts.json", "experts.png"
NAMES = {"two": "two experts (SemVIE)", "shared": "one shared expert"}


def experts_folder(paths: RunPaths) -> Path:
    """The comparison's folder."""
    return paths.run / "experts"


def experts_table(figures: dict[str, Any]) -> pd.DataFrame:
    """The figures of each side by side, as text."""
    rows = [
        {"": name} | {NAMES[experts]: f"{figures[experts][name]:.4g}" for experts in EXPERTS}
        for name in figures[EXPERTS[0]]
    ]
    before = f"{figures['base_perplexity']:.4g}"
    return pd.DataFrame([*rows, {"": "perplexity before"} | {NAMES[experts]: before for experts in EXPERTS}])
