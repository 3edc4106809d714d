"""The report of a run: one HTML file made from the other jobs' results in its folder."""

import html
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.recipe import Recipe
from pipeline.demo.corpora import attribution_of
from pipeline.demo_scores.composition_section import composition_sections
from pipeline.errors import InputError
from pipeline.evaluation.documents import newest_documents
from pipeline.evaluation.run_scores import METRICS_FILE as SCORES_FILE
from pipeline.evaluation.samples import CAPTIONS_FILE, GRID_FILE, VQ_SHEET_FILE
from pipeline.ledger.sums import days_unit, sums_by
from pipeline.ledger.table import read_ledger
from pipeline.pages.figures import png_of
from pipeline.pages.html import image_of, page_of, table_of
from pipeline.pages.prompt_results import GRID_FILE as DOCUMENTS_GRID
from pipeline.pages.prompt_results import PAGE_FILE
from pipeline.pages.sheets import spread
from pipeline.reports.sections import experts_sections, preservation_sections
from pipeline.runs.paths import RunPaths
from pipeline.step_figures import METRICS_FILE, read_step_figures
from tokenization.files.atomic_writing import write_atomically

REPORT_FILE = "report.html"
PACKAGES = ("ray", "torch", "deepspeed", "transformers", "diffusers", "pyarrow")
SHOWN_CAPTIONS = 12
LEDGER_COLUMNS = ["seconds", "days", "productive_seconds", "steps", "samples", "tokens", "flop"]
LEDGER_FORMATS = {
    "seconds": "{:.0f}",
    "productive_seconds": "{:.0f}",
    "days": "{:.5f}",
    "flop": "{:.2e}",
    "steps": "{:,.0f}",
    "samples": "{:,.0f}",
    "tokens": "{:,.0f}",
}


def write_report(recipe: Recipe, paths: RunPaths) -> Path:
    """Writes the report into the run's folder. Returns its path.

    Raises:
        InputError: the run has no scores, or a stage has no figures.
    """
    scores_path = paths.run / SCORES_FILE
    if not scores_path.exists():
        raise InputError(f"{str(scores_path)!r} does not exist; run jobs/evaluate.py first")
    metrics = json.loads(scores_path.read_text())
    stages = {number: stage.purpose for number, stage in enumerate(recipe.stages, start=1)}
    sections = [
        *preservation_sections(metrics),
        *composition_sections(paths, metrics),
        *experts_sections(paths),
    ]
    parts = [
        *_head(recipe),
        *_samples(paths),
        "<h2>Scores</h2>",
        _scores(metrics),
        *[part for section in sections for part in section.parts()],
        "<h2>Loss by task</h2>",
        image_of(loss_curves(paths, stages), "loss of each task over the steps"),
        "<h2>The VQ-GAN</h2><p>From top to bottom: pictures of the corpus, decoded from the codes that training saw, "
        "and from the codes of pictures twice the size.</p>",
        image_of((paths.samples / VQ_SHEET_FILE).read_bytes(), "pictures through the VQ-GAN"),
        "<h2>The ledger</h2>",
        _ledger(paths),
        "<h2>Versions</h2>",
        _versions(),
    ]
    path = paths.run / REPORT_FILE
    page = page_of(f"MARS on Ray: {recipe.name}", parts)
    write_atomically(path, lambda partial: partial.write_text(page, encoding="utf-8"))
    return path


def loss_curves(paths: RunPaths, stages: dict[int, str]) -> bytes:
    """Returns a PNG with the loss of each task over the steps of all stages; `stages` maps numbers to purposes."""
    figure = Figure(figsize=(5.2 * len(stages), 3.4))
    axes = figure.subplots(1, len(stages), squeeze=False)
    for axis, (number, purpose) in zip(axes[0], stages.items(), strict=True):
        if not (figures := read_step_figures(paths.stage(number))):
            raise InputError(
                f"{str(paths.stage(number) / METRICS_FILE)!r} has no figures; run jobs/train_stage.py again"
            )
        last_run = {each.step: each.losses for each in figures}  # the last run of a repeated step counts
        table = pd.DataFrame.from_dict(last_run, orient="index").sort_index()
        for task in map(str, table.columns):
            axis.plot(table.index, table[task], label=task.replace("_", " "), linewidth=1)
        axis.set(
            title=f"Stage {number}: {purpose}", xlabel="step", ylabel="cross-entropy, nats a label", ylim=(0, None)
        )
        axis.title.set_fontsize(9)
        axis.legend(fontsize=8)
    figure.tight_layout()
    return png_of(figure)


def _head(recipe: Recipe) -> list[str]:
    devices = f"{recipe.scaling.num_workers} {'GPU' if recipe.scaling.use_gpu else 'CPU'} workers"
    made = f"{time.strftime('%Y-%m-%d %H:%M')} on {html.escape(platform.machine())}, {devices}."
    return [
        f"<h1>MARS on Ray: run {html.escape(recipe.name)}</h1>",
        f"<p class=note>{made} {attribution_of(recipe.corpus)}</p>",
    ]


def _samples(paths: RunPaths) -> list[str]:
    """The section of generated pictures, documents and captions."""
    return [
        "<h2>Pictures from prompts</h2><p>Each column: a picture of the corpus, and the pictures generated from its "
        "English and its Chinese caption; where the last stage trained for it, in both resolutions.</p>",
        image_of((paths.samples / GRID_FILE).read_bytes(), "the corpus's pictures, and those generated from captions"),
        *_documents(paths),
        "<h2>Captions from pictures</h2>",
        _captions(paths),
    ]


def _documents(paths: RunPaths) -> list[str]:
    """The section of some documents: their first lines, and their generated pictures."""
    folder = newest_documents(paths)
    if folder is None or not (folder / DOCUMENTS_GRID).exists():
        return []
    text = "Each column: a document's first line, and the pictures that the model opened by itself while it wrote on; "
    page = (folder / PAGE_FILE).relative_to(paths.run).as_posix()
    return [
        f"<h2>Illustrated documents</h2><p>{text}<a href='{page}'>all of them, with their text</a>.</p>",
        image_of((folder / DOCUMENTS_GRID).read_bytes(), "documents and their pictures"),
    ]


def _captions(paths: RunPaths) -> str:
    table = pd.read_parquet(paths.samples / CAPTIONS_FILE)
    rows = table.iloc[spread(list(range(len(table))), SHOWN_CAPTIONS)]
    return table_of(rows[["true_caption", "caption"]].set_axis(["true", "generated"], axis=1))


def _scores(metrics: dict[str, Any]) -> str:
    rows = [(name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in metrics.items()]
    return table_of(pd.DataFrame(rows, columns=["score", "value"]))


def _ledger(paths: RunPaths) -> str:
    """The section of days by job: CPU-days if no GPU was held."""
    table = read_ledger(paths.ledger).table
    table["days"] = table["gpu_days"]
    table["unit"] = table["gpu_model"].map(days_unit)
    table["what"] = [f"{job} {stage}".strip() for job, stage in zip(table["job"], table["stage"], strict=True)]
    by_job = sums_by(table, ["what", "unit"], LEDGER_COLUMNS)
    total = sums_by(by_job, ["unit"], LEDGER_COLUMNS)
    total.insert(0, "what", "all")
    shown = pd.concat([by_job, total])
    for name, pattern in LEDGER_FORMATS.items():
        shown[name] = shown[name].map(pattern.format)
    return table_of(shown)


def _versions() -> str:
    rows = [("python", platform.python_version())] + [(name, version(name)) for name in PACKAGES]
    return table_of(pd.DataFrame(rows, columns=["package", "version"]))
