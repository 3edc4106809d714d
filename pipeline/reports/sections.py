"""Sections of the report that not every run has figures for."""

import json
from typing import Any

import pandas as pd

from pipeline.pages.html import Section
from pipeline.reports.experts_report import PLOT_FILE, SUMMARY_FILE, experts_folder, experts_table
from pipeline.runs.paths import RunPaths


def preservation_sections(metrics: dict[str, Any]) -> list[Section]:
    """Compares the trained model's text with its language expert's. Returns nothing if no text was held out."""
    if "text_perplexity" not in metrics:
        return []
    names = ["text_perplexity", "base_text_perplexity", "text_logits_max_abs_diff", "openers_in_text"]
    names += [name for name in metrics if name.startswith("openers_in_running_text_")]
    names += ["openers_where_they_belong", "held_out_texts"]
    rows = [(name, f"{metrics[name]:.6g}") for name in names if name in metrics]
    text = (
        "The trained model's text beside its language expert's: perplexity of captions that nothing was trained on, "
        "and the largest difference of a text logit. And the share of positions at which a picture would open: in "
        "those captions before their last, in running text, and before the pictures of documents."
    )
    return [Section("Preservation", text, pd.DataFrame(rows, columns=["", "value"]))]


def experts_sections(paths: RunPaths) -> list[Section]:
    """Shows the comparison of two experts with one. Returns nothing if `jobs/compare_experts.py` has not run."""
    folder = experts_folder(paths)
    if not (folder / SUMMARY_FILE).exists():
        return []
    figures = json.loads((folder / SUMMARY_FILE).read_text())
    text = (
        f"The same {figures['steps']} steps with SemVIE and with one shared, trained expert; the drift of the text "
        f"logits from the base's is measured on {figures['held_out_texts']} held-out captions."
    )
    return [Section("Why two experts", text, experts_table(figures), [(folder / PLOT_FILE).read_bytes()])]
