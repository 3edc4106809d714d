"""The page of `jobs/budget.py report`: spending over time and by use, against the budget and published models."""

import html
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.budget.spending import CATEGORIES
from pipeline.config.units import SECONDS_PER_DAY
from pipeline.ledger.table import Ledger, records_of
from pipeline.pages.figures import png_of
from pipeline.pages.html import image_of, page_of, table_of
from pipeline.reports.budget_tables import summary_lines
from tokenization.files.atomic_writing import write_atomically

COLOURS = dict(zip(CATEGORIES, ("#2a9d60", "#c0392b", "#e0a030", "#3b7dd8", "#8e7cc3", "#b8b8b8"), strict=True))


def write_page(path: Path, figures: dict[str, Any], ledger: Ledger) -> None:
    """Writes the page atomically."""
    unit = f"{figures['device']}-days"
    parts = [
        f"<h1>Budget of run {html.escape(figures['recipe'])}</h1>",
        f"<p class=note>{time.strftime('%Y-%m-%d %H:%M')}. Measured from the ledger, but for the forecast.</p>",
        *[f"<p class=note>{html.escape(remark)}</p>" for remark in figures["remarks"]],
        table_of(pd.DataFrame(summary_lines(figures, unit), columns=["what", "value"])),
        "<h2>Over time</h2>",
        image_of(_over_time(figures, ledger, unit), f"{unit} spent over time, beside the budget"),
        "<h2>What the devices did</h2>",
        image_of(_by_job(figures, unit), f"{unit} of each job by what the devices did"),
        "<h2>Attempts</h2>",
        table_of(_attempts(figures)),
    ]
    if figures["a100_gpu_days"] is not None:
        parts += [
            "<h2>Published models</h2>",
            image_of(_against_published(figures), "A100 GPU-days of this run and of published models"),
        ]
    page = page_of(f"Budget of {figures['recipe']}", parts)
    write_atomically(path, lambda partial: partial.write_text(page, encoding="utf-8"))


def _over_time(figures: dict[str, Any], ledger: Ledger, unit: str) -> bytes:
    """Plots days over time.

    Attempts hold a nearly constant number of devices, so straight lines connect their starts and last rows.
    """
    rows = [row for row in records_of(ledger.table) if (row["gpu_model"] == "CPU") == (figures["device"] == "CPU")]
    ends = [(row["started"], row["started"] + row["elapsed_seconds"], row["gpu_days"]) for row in rows]
    times = sorted({moment for start, end, _ in ends for moment in (start, end)})
    spent = [
        sum(days * np.clip((moment - start) / max(end - start, 1e-9), 0, 1) for start, end, days in ends)
        for moment in times
    ]
    first = times[0] if times else 0.0
    hours = [(moment - first) / 3600 for moment in times]
    figure = Figure(figsize=(8, 3.6))
    axis = figure.subplots()
    axis.plot(hours, spent, color=COLOURS["productive"], label="spent")
    if figures["budget_gpu_days"]:
        axis.axhline(figures["budget_gpu_days"], color="#c0392b", linestyle="--", label="budget")
    expected = figures["forecast"]
    if expected and expected["left_s"]:
        end = (figures["time"] - first + expected["left_s"]) / 3600
        bounds = [[expected["gpu_days"] - expected["low"]], [expected["high"] - expected["gpu_days"]]]
        axis.errorbar([end], [expected["gpu_days"]], yerr=bounds, fmt="o", color="#3b7dd8", capsize=4, label="forecast")
    axis.set(xlabel="hours since the first attempt", ylabel=unit, ylim=(0, None))
    axis.legend(fontsize=8)
    return png_of(figure)


def _by_job(figures: dict[str, Any], unit: str) -> bytes:
    staged = [row | {"name": f"stage {row['stage']}"} for row in figures["by_stage"] if row["job"] == "train_stage"]
    rows = [row | {"name": row["job"]} for row in figures["by_job"] if row["job"] != "train_stage"] + staged
    figure = Figure(figsize=(8, 0.8 + 0.42 * len(rows)))
    axis = figure.subplots()
    names, left = [f"{row['name']} ({row['gpu_model'] or 'nothing'})" for row in rows], np.zeros(len(rows))
    for category in CATEGORIES:
        width = np.array([row[category] for row in rows])
        axis.barh(names, width, left=left, color=COLOURS[category], label=category)
        left += width
    axis.invert_yaxis()
    axis.set(xlabel=unit)
    axis.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return png_of(figure)


def _against_published(figures: dict[str, Any]) -> bytes:
    bars = figures["beside"] | {"this run so far": figures["a100_gpu_days"]}
    figure = Figure(figsize=(8, 3))
    axis = figure.subplots()
    axis.barh(list(bars), list(bars.values()), color=["#b8b8b8"] * (len(bars) - 1) + [COLOURS["productive"]])
    axis.invert_yaxis()
    axis.set(xlabel="A100 GPU-days, published and our own")
    return png_of(figure)


def _attempts(figures: dict[str, Any]) -> pd.DataFrame:
    rows = []
    for row in figures["by_attempt"]:
        shares = {name: f"{row[name] / row['gpu_days']:.1%}" if row["gpu_days"] else "" for name in CATEGORIES}
        device_s = row["gpu_days"] * SECONDS_PER_DAY
        own = {"attempt": row["attempt"], "outcome": row["outcome"], "device": row["gpu_model"]}
        rows.append(own | {"days": f"{row['gpu_days']:.5f}", "device-seconds": f"{device_s:,.0f}"} | shares)
    return pd.DataFrame(rows)
