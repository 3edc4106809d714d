"""The report of a run, finished or not: one HTML page made from the other jobs' results in its folder."""

import html
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.recipe import Recipe
from pipeline.demo.corpora import attribution_of
from pipeline.demo_scores.composition_section import composition_sections
from pipeline.errors import InputError
from pipeline.evaluation.documents import newest_documents
from pipeline.evaluation.run_scores import METRICS_FILE as SCORES_FILE
from pipeline.evaluation.samples import CAPTIONS_FILE, GRID_FILE, VQ_SHEET_FILE
from pipeline.held_out_scores.evaluate import SHEET_FILE as HELD_OUT_SHEET
from pipeline.held_out_scores.verdict import meanings, verdicts
from pipeline.ledger.sums import days_unit, sums_by
from pipeline.ledger.table import Ledger, read_ledger
from pipeline.pages.html import image_of, page_of, table_of
from pipeline.pages.prompt_results import GRID_FILE as DOCUMENTS_GRID
from pipeline.pages.prompt_results import PAGE_FILE
from pipeline.pages.sheets import spread
from pipeline.reports.new_recipe import SHEET_FILE as CORPUS_SHEET
from pipeline.reports.sections import experts_sections, preservation_sections
from pipeline.reports.training_sections import loss_parts, progress_parts, sample_parts, stage_figures, time_parts
from pipeline.runs.paths import RunPaths
from tokenization.files.atomic_writing import write_atomically

REPORT_FILE = "report.html"
PACKAGES = ("ray", "torch", "deepspeed", "transformers", "diffusers", "pyarrow")
SHOWN_CAPTIONS = 12
HELD_OUT_TEXT = (
    "Each column, of rows that no stage trained on: a caption under its own picture; the picture drawn from the "
    "caption; and the caption that the model writes about the row's own picture."
)
CORPUS_TEXT = "Pictures of the corpus with their captions, and below each what the VQ-GAN's codes keep of it."
VQ_TEXT = (
    "From top to bottom: pictures of the corpus, decoded from the codes that training saw, and from the codes of "
    "pictures twice the size."
)
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
    """Writes the report into the run's folder, with what the run has so far. Returns its path.

    Raises:
        InputError: there is no such run, or its ledger cannot be read.
    """
    if not paths.run.is_dir():
        raise InputError(f"{str(paths.run)!r} does not exist; start the run with jobs/tokenize.py, or name its --root")
    path, page = paths.run / REPORT_FILE, report_page(recipe, paths)
    write_atomically(path, lambda partial: partial.write_text(page, encoding="utf-8"))
    return path


def report_page(recipe: Recipe, paths: RunPaths, refresh_s: int = 0) -> str:
    """Returns the report as one HTML page. A part for which the run has nothing yet is left out.

    Args:
        recipe, paths: recipe and paths of the run.
        refresh_s: seconds after which a browser loads the page again; 0 for never.
    """
    scores_path = paths.run / SCORES_FILE
    metrics = json.loads(scores_path.read_text()) if scores_path.exists() else {}
    ledger, figures = read_ledger(paths.ledger), stage_figures(recipe, paths)
    sections = [
        *preservation_sections(metrics),
        *composition_sections(paths, metrics),
        *experts_sections(paths),
    ]
    parts = [
        *_head(recipe),
        *progress_parts(recipe, figures, ledger),
        *_samples(paths),
        *_sheet(paths.samples / HELD_OUT_SHEET, "Held-out rows", HELD_OUT_TEXT),
        *_scores(metrics),
        *[part for section in sections for part in section.parts()],
        *loss_parts(recipe, figures),
        *sample_parts(recipe, paths),
        *time_parts(figures),
        *_sheet(paths.run / CORPUS_SHEET, "The corpus", CORPUS_TEXT),
        *_sheet(paths.samples / VQ_SHEET_FILE, "The VQ-GAN", VQ_TEXT),
        *_ledger(ledger),
        "<h2>Versions</h2>",
        _versions(),
    ]
    return page_of(f"MARS on Ray: {recipe.name}", parts, refresh_s)


def _head(recipe: Recipe) -> list[str]:
    devices = f"{recipe.scaling.num_workers} {'GPU' if recipe.scaling.use_gpu else 'CPU'} workers"
    made = f"{time.strftime('%Y-%m-%d %H:%M')} on {html.escape(platform.machine())}, {devices}."
    return [
        f"<h1>MARS on Ray: run {html.escape(recipe.name)}</h1>",
        f"<p class=note>{made} {attribution_of(recipe.corpus)}</p>",
    ]


def _sheet(file: Path, title: str, text: str) -> list[str]:
    """A section with a sheet of pictures, if there is one."""
    if not file.exists():
        return []
    return [f"<h2>{title}</h2><p>{text}</p>", image_of(file.read_bytes(), title)]


def _samples(paths: RunPaths) -> list[str]:
    """The section of pictures, documents and captions that were generated from the samples, if they were."""
    if not (paths.samples / GRID_FILE).exists():
        return []
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


def _scores(metrics: dict[str, Any]) -> list[str]:
    if not metrics:
        return []
    rows = [(name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in metrics.items()]
    parts = ["<h2>Scores</h2>", *(f"<p>{html.escape(line)}.</p>" for line in verdicts(metrics))]
    parts.append(table_of(pd.DataFrame(rows, columns=["score", "value"])))
    return [*parts, *(f"<p class=note>{name}: {html.escape(text)}.</p>" for name, text in meanings(metrics).items())]


def _ledger(ledger: Ledger) -> list[str]:
    """The section of days by job: CPU-days if no GPU was held."""
    if not len(ledger.table):
        return []
    table = ledger.table.copy()
    table["days"] = table["gpu_days"]
    table["unit"] = table["gpu_model"].map(days_unit)
    table["what"] = [f"{job} {stage}".strip() for job, stage in zip(table["job"], table["stage"], strict=True)]
    by_job = sums_by(table, ["what", "unit"], LEDGER_COLUMNS)
    total = sums_by(by_job, ["unit"], LEDGER_COLUMNS)
    total.insert(0, "what", "all")
    shown = pd.concat([by_job, total])
    for name, pattern in LEDGER_FORMATS.items():
        shown[name] = shown[name].map(pattern.format)
    return ["<h2>The ledger</h2>", table_of(shown)]


def _versions() -> str:
    rows = [("python", platform.python_version())] + [(name, version(name)) for name in PACKAGES]
    return table_of(pd.DataFrame(rows, columns=["package", "version"]))
