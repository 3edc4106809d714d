"""Compares two runs on one page: settings that differ, losses, scores, and what they took."""

import html
import json
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.recipe import Recipe
from pipeline.errors import InputError
from pipeline.evaluation.run_scores import METRICS_FILE
from pipeline.ledger.table import read_ledger
from pipeline.pages.figures import png_of
from pipeline.pages.html import image_of, page_of, table_of
from pipeline.reports.dry_run import flatten
from pipeline.reports.training_sections import Figures, stage_figures
from pipeline.runs.paths import RunPaths
from pipeline.runs.stage_recipe import RECIPE_FILE, read_stage_recipe
from pipeline.step_figures import StepFigures
from tokenization.files.atomic_writing import write_atomically

STYLES = ("-", "--")


def compare_runs(root: Path, names: tuple[str, str]) -> Path:
    """Writes the page into the first run's folder. Returns its path.

    Args:
        root: folder of the runs.
        names: two runs, by their folders' names in `root` or by their own paths.

    Raises:
        InputError: one is no run of which a stage was trained.
    """
    first, second = (_run_of(root, name) for name in names)
    figures = [stage_figures(paths.recipe, paths) for paths in (first, second)]
    intro = f"A: {html.escape(str(first.run))}; B: {html.escape(str(second.run))}"
    parts = ["<h1>MARS on Ray: two runs</h1>", f"<p class=note>{intro}</p>"]
    for title, table in (
        ("Settings that differ", differing_settings(first.recipe, second.recipe)),
        ("Scores", side_by_side(_scores(first), _scores(second))),
        ("What they took", side_by_side(_spent(first), _spent(second))),
    ):
        parts += [f"<h2>{title}</h2>", table_of(table) if len(table) else "<p>None.</p>"]
    parts += ["<h2>Loss by task</h2>", image_of(_curves(figures, False), "losses of both runs, B dashed")]
    if any(each.validation for of_run in figures for of in of_run.values() for each in of):
        parts += ["<h2>Held-out loss</h2>", image_of(_curves(figures, True), "held-out losses of both runs, B dashed")]
    path = first.run / f"compared_with_{second.run.name}.html"
    page = page_of(f"{first.run.name} and {second.run.name}", parts)
    write_atomically(path, lambda partial: partial.write_text(page, encoding="utf-8"))
    return path


def differing_settings(first: Recipe, second: Recipe) -> pd.DataFrame:
    """The settings with different values, by their `--set` keys; the name does not count. What one recipe alone has,
    such as a corpus or a stage, is one row."""
    a, b = flatten(first), flatten(second)
    rows: dict[str, tuple[str, str]] = {}
    for key in dict.fromkeys([*a, *b]):
        whole = next((part for part in _parts_of(key) if _has(a, part) != _has(b, part)), key)
        if whole != key:
            rows[whole] = ("in A alone", "") if _has(a, whole) else ("", "in B alone")
        elif key != "name" and (shown := (_setting(a.get(key)), _setting(b.get(key))))[0] != shown[1]:
            rows[key] = shown
    return pd.DataFrame([(key, *shown) for key, shown in rows.items()], columns=["setting", "A", "B"])


def _parts_of(key: str) -> list[str]:
    """The settings that a key lies in, from the outermost one to itself, as in `a`, `a.b`, `a.b.c`."""
    return list(accumulate(key.split("."), "{}.{}".format))


def _has(settings: Mapping[str, Any], part: str) -> bool:
    return any(key == part or key.startswith(f"{part}.") for key in settings)


def _setting(value: Any) -> str:
    return "" if value in (None, {}, ()) else str(value)


def side_by_side(first: Mapping[str, Any], second: Mapping[str, Any]) -> pd.DataFrame:
    """Figures of both runs by name, and B over A where both are numbers."""
    rows = []
    for name in dict.fromkeys([*first, *second]):
        a, b = first.get(name, ""), second.get(name, "")
        both = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (a, b))
        rows.append((name, _shown(a), _shown(b), f"{b / a:.3g}" if both and a else ""))
    return pd.DataFrame(rows, columns=["", "A", "B", "B / A"])


def _run_of(root: Path, name: str) -> RunPaths:
    folder = next((each for each in (root / name, Path(name).absolute()) if each.is_dir()), None)
    stages = sorted(folder.glob(f"stage*/{RECIPE_FILE}")) if folder else []
    if folder is None or not stages:
        raise InputError(f"--runs {name!r}: there is no run with a trained stage in {str(root)!r} or of that path")
    return RunPaths(folder, read_stage_recipe(stages[-1].parent))


def _scores(paths: RunPaths) -> dict[str, Any]:
    file = paths.run / METRICS_FILE
    return json.loads(file.read_text()) if file.exists() else {}


def _spent(paths: RunPaths) -> dict[str, float]:
    """Device-days and hours by job."""
    table = read_ledger(paths.ledger).table
    if not len(table):
        return {}
    sums = table.groupby("job", sort=False)[["gpu_days", "seconds"]].sum()
    found = {f"{job}, device-days": float(row["gpu_days"]) for job, row in sums.iterrows()}
    return found | {f"{job}, hours": float(row["seconds"]) / 3600 for job, row in sums.iterrows()}


def _curves(figures: list[dict[int, list[StepFigures]]], held_out: bool) -> bytes:
    """A PNG with an axis for each stage, and a line for each task and run."""
    numbers = sorted({number for of_run in figures for number in of_run}) or [1]
    figure = Figure(figsize=(5.2 * len(numbers), 3.6))
    axes = figure.subplots(1, len(numbers), squeeze=False)
    for axis, number in zip(axes[0], numbers, strict=True):
        tables = [_table(of_run, number, held_out) for of_run in figures]
        names = list(dict.fromkeys(str(name) for table in tables for name in table.columns))
        for table, style, label in zip(tables, STYLES, ("A", "B"), strict=True):
            for color, name in enumerate(names):
                if name in table:
                    line = table[name].dropna()
                    axis.plot(line.index, line, style, color=f"C{color}", label=f"{label} {name}", linewidth=1)
        unit = "bits" if held_out else "cross-entropy, nats a label"
        axis.set(title=f"Stage {number}", xlabel="step", ylabel=unit, ylim=(0, None))
        if names:
            axis.legend(fontsize=7)
    figure.tight_layout()
    return png_of(figure)


def _table(figures: Figures, number: int, held_out: bool) -> pd.DataFrame:
    by_step = {each.step: each.validation if held_out else each.losses for each in figures.get(number, ())}
    return pd.DataFrame.from_dict({step: of for step, of in by_step.items() if of}, orient="index").sort_index()


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
