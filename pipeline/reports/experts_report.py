"""Files of the comparison of two experts with one: records, figures and a plot; and the figures as a table."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pipeline.evaluation.expert_comparison import EXPERTS, Comparison
from pipeline.evaluation.expert_runs import DRIFT, NAMES
from pipeline.pages.figures import DPI
from pipeline.runs.paths import RunPaths
from tokenization.files.atomic_writing import write_atomically

RECORDS_FILE, SUMMARY_FILE, PLOT_FILE = "records.jsonl", "experts.json", "experts.png"
LAST_STEPS = 20
"""The losses in the table are means over this number of last steps."""
SMOOTHED_STEPS = 10
"""The plotted losses are running means over this number of steps."""
UNPLOTTED = ("loss/opener", "loss/plain_text")


def experts_folder(paths: RunPaths) -> Path:
    return paths.run / "experts"


def write_comparison(paths: RunPaths, comparison: Comparison, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Writes records, figures and plot. Returns the figures."""
    folder, stage, table = experts_folder(paths), comparison.run.stage, pd.DataFrame(records)
    records_json = table.to_json(orient="records", lines=True)
    write_atomically(folder / RECORDS_FILE, lambda partial: partial.write_text(records_json))
    figures = {"steps": stage.steps, "held_out_texts": len(comparison.texts), "stage": asdict(stage)} | summary(table)
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    write_atomically(folder / SUMMARY_FILE, lambda partial: partial.write_text(text))
    write_atomically(folder / PLOT_FILE, lambda partial: plot(table).savefig(partial, dpi=DPI, format="png"))
    return figures


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Returns each of `EXPERTS`' figures: losses of the last steps, the drift at the end, the base's perplexity."""
    found: dict[str, Any] = {}
    for experts, records in table.groupby("experts", sort=False):
        measured = records[records["mean_kl"].notna()].iloc[-1]
        losses = records[_losses(table)].tail(LAST_STEPS).mean()
        found[str(experts)] = losses.dropna().to_dict() | {name: float(measured[name]) for name in DRIFT}
        found["base_perplexity"] = float(measured["base_perplexity"])
    return found


def plot(table: pd.DataFrame) -> Figure:
    """Plots the loss of each task, and KL divergence and perplexity of held-out text, over the steps."""
    losses = [name for name in _losses(table) if name not in UNPLOTTED]
    panels = {name: f"{name.removeprefix('loss/').replace('_', ' ')}, nats a label" for name in losses}
    panels |= {"mean_kl": "text: KL from the base, nats an id", "perplexity": "text: perplexity, held-out captions"}
    figure = Figure(figsize=(3.4 * len(panels), 3.2))
    axes = figure.subplots(1, len(panels))
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        for experts, records in table.groupby("experts", sort=False):
            line = records[records[column].notna()]
            is_loss = column in losses
            values = line[column].rolling(SMOOTHED_STEPS, min_periods=1).mean() if is_loss else line[column]
            axis.plot(line["step"], values, label=NAMES[str(experts)], marker="" if is_loss else ".")
        axis.set(title=title, xlabel="step")
        axis.title.set_fontsize(9)
    axes[-1].set_yscale("log")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def experts_table(figures: dict[str, Any]) -> pd.DataFrame:
    """Returns the figures of both in adjacent columns, as text."""
    rows = [
        {"": name} | {NAMES[experts]: f"{figures[experts][name]:.4g}" for experts in EXPERTS}
        for name in figures[EXPERTS[0]]
    ]
    before = f"{figures['base_perplexity']:.4g}"
    return pd.DataFrame([*rows, {"": "perplexity before"} | {NAMES[experts]: before for experts in EXPERTS}])


def _losses(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table if str(name).startswith("loss/")]
