#!/usr/bin/env -S python -P
"""Writes report.html of a run: one file with loss curves, pictures, scores, the ledger, and the versions."""

import jobs  # noqa: F401  # isort: skip

import html
import json
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version

import pandas as pd

from jobs.common.cli import JobOptions, run_job
from jobs.evaluate import VQ_SHEET_FILE
from jobs.generate import CAPTIONS_FILE, GRID_FILE
from pipeline.errors import InputError
from pipeline.evaluation.documents import newest_documents
from pipeline.ledger.rows import read_ledger
from pipeline.pages.html import image_of, page_of, plt, png_of, table_of
from pipeline.pages.prompt_results import GRID_FILE as DOCUMENTS_GRID
from pipeline.pages.prompt_results import PAGE_FILE
from pipeline.pages.sheets import spread
from pipeline.reports.learned import Section, learned_sections
from pipeline.runs.paths import RunPaths
from pipeline.runs.step_figures import METRICS_FILE, read_step_figures
from pipeline.runtime.terminal import say
from tokenization.demo.openmoji import ATTRIBUTION

REPORT_FILE = "report.html"
PACKAGES = ("ray", "torch", "deepspeed", "transformers", "diffusers", "pyarrow")


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `report`."""


def main(options: Options) -> None:
    """Writes the report from what the other jobs left in the run's folder."""
    recipe, paths = options.resolve()
    metrics_path = paths.run / "metrics.json"
    if not metrics_path.exists():
        raise InputError(f"{str(metrics_path)!r} does not exist; run jobs/evaluate.py first")
    metrics = json.loads(metrics_path.read_text())
    stages = {number: stage.purpose for number, stage in enumerate(recipe.stages, start=1)}
    parts = [
        f"<h1>MARS on Ray: run {html.escape(recipe.name)}</h1>",
        f"<p class=note>{time.strftime('%Y-%m-%d %H:%M')} on {html.escape(platform.machine())}, "
        f"{recipe.scaling.num_workers} {'GPU' if recipe.scaling.use_gpu else 'CPU'} workers. {ATTRIBUTION}</p>",
        "<h2>Pictures from prompts</h2><p>Each column: the drawing, and the pictures generated from its English and "
        "its Chinese name; where the last stage trained for it, in both resolutions.</p>",
        image_of((paths.samples / GRID_FILE).read_bytes(), "drawings, and pictures generated from their names"),
        *_documents(paths),
        "<h2>Captions from pictures</h2>",
        _captions(paths),
        "<h2>Scores</h2>",
        table_of(pd.DataFrame([(name, _text(value)) for name, value in metrics.items()], columns=["score", "value"])),
        *[part for section in learned_sections(paths, metrics) for part in _section(section)],
        "<h2>Loss by task</h2>",
        image_of(loss_curves(paths, stages), "loss of each task over the steps"),
        "<h2>The VQ-GAN</h2><p>From above: drawings, what is left of them in the codes that training saw, and in the "
        "codes of pictures twice the size.</p>",
        image_of((paths.samples / VQ_SHEET_FILE).read_bytes(), "drawings through the VQ-GAN"),
        "<h2>The ledger</h2>",
        _ledger(paths),
        "<h2>Versions</h2>",
        table_of(
            pd.DataFrame(
                [("python", platform.python_version())] + [(name, version(name)) for name in PACKAGES],
                columns=["package", "version"],
            )
        ),
    ]
    page = page_of(f"MARS on Ray: {recipe.name}", parts)
    (paths.run / REPORT_FILE).write_text(page, encoding="utf-8")
    say(f"report: {paths.run / REPORT_FILE}")


def loss_curves(paths: RunPaths, stages: dict[int, str]) -> bytes:
    """A PNG with the loss of each task over the steps of all stages."""
    figure, axes = plt.subplots(1, len(stages), figsize=(5.2 * len(stages), 3.4), squeeze=False)
    for axis, (number, purpose) in zip(axes[0], stages.items(), strict=True):
        if not (figures := read_step_figures(paths.stage(number))):
            raise InputError(
                f"{str(paths.stage(number) / METRICS_FILE)!r} has no figures; run jobs/train_stage.py again"
            )
        table = pd.DataFrame(figures).drop_duplicates("step", keep="last")
        for name in [column for column in table if str(column).startswith("loss/")]:
            axis.plot(table["step"], table[name], label=str(name)[5:].replace("_", " "), linewidth=1)
        axis.set(
            title=f"Stage {number}: {purpose}", xlabel="step", ylabel="cross-entropy, nats a label", ylim=(0, None)
        )
        axis.title.set_fontsize(9)
        axis.legend(fontsize=8)
    figure.tight_layout()
    return png_of(figure)


def _section(section: Section) -> list[str]:
    parts = [f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>"]
    parts += [table_of(section.table)] if section.table is not None else []
    return parts + [image_of(picture, section.title) for picture in section.pictures]


def _documents(paths: RunPaths) -> list[str]:
    """The first lines of some documents, and the pictures that the model drew while it went on writing."""
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
    rows = [table.iloc[place] for place in spread(list(range(len(table))), 12)]
    return table_of(
        pd.DataFrame([(row["true_caption"], row["caption"]) for row in rows], columns=["true", "generated"])
    )


def _ledger(paths: RunPaths) -> str:
    """Days by job: CPU-days where no GPU was held."""
    table = read_ledger(paths.ledger).table
    table["days"] = table["gpu_days"]
    table["unit"] = ["CPU-days" if model == "CPU" else f"{model} GPU-days" for model in table["gpu_model"]]
    table["what"] = [f"{job} {stage}".strip() for job, stage in zip(table["job"], table["stage"], strict=True)]
    columns = ["seconds", "days", "productive_seconds", "steps", "samples", "tokens", "flop"]
    by_job = table.groupby(["what", "unit"], sort=False)[columns].sum().reset_index()
    total = by_job.groupby("unit", sort=False)[columns].sum().reset_index()
    total.insert(0, "what", "all")
    shown = pd.concat([by_job, total])
    for name, pattern in (
        ("seconds", "{:.0f}"),
        ("productive_seconds", "{:.0f}"),
        ("days", "{:.5f}"),
        ("flop", "{:.2e}"),
    ):
        shown[name] = shown[name].map(pattern.format)
    for name in ("steps", "samples", "tokens"):
        shown[name] = shown[name].map("{:,.0f}".format)
    return table_of(shown)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
