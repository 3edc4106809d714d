#!/usr/bin/env -S python -P
"""Shows what a token dataset holds: statistics, and a sheet of random rows decoded back to pictures and captions."""

import jobs  # noqa: F401  # isort: skip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from rich.table import Table

from jobs.common.cli import JobOptions, run_job
from pipeline.config.recipe import Recipe
from pipeline.errors import InputError, UsageError
from pipeline.pages.sheets import picture_sheet
from pipeline.runs.paths import RunPaths
from pipeline.runtime.ray_connection import connect_to_ray
from pipeline.runtime.terminal import console, say
from tokenization.demo.openmoji import ATTRIBUTION
from tokenization.files.storage import Storage, open_storage
from tokenization.table.statistics import add_up, statistics_of_shard
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint
from tokenization.text_tokenizer import load_text_tokenizer, text_vocabulary_sha256
from tokenization.vqgan.image_tokenizer import ImageTokenizer, image_tokenizer_sha256

SHEET_FILE = "tokens.png"
COLUMNS = 6


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `inspect_tokens`."""

    tokens: str = ""
    """Folder or s3://bucket/prefix of the tokens (default: `tokens` in the run's folder)."""
    rows: int = 12
    """Random rows on the sheet; 0 for no sheet."""
    seed: int = 0
    """Which rows are drawn."""
    json: bool = False
    """Print the statistics as one JSON object, last."""


def main(options: Options) -> dict[str, Any]:
    """Counts, and draws the sheet."""
    recipe, paths = options.resolve()
    if options.rows < 0:
        raise UsageError(f"--rows is {options.rows}, it must not be negative")
    storage = open_storage(options.tokens or paths.tokens)
    names = storage.names()
    shards = [name for name in names if name.endswith(".parquet")]
    if not shards or MANIFEST_FILE not in names:
        what = "no token shard" if not shards else f"no {MANIFEST_FILE}: tokenization did not finish"
        raise InputError(f"{str(storage)!r} has {what}; run jobs/tokenize.py first")
    with storage.local(MANIFEST_FILE) as path:
        manifest = json.loads(path.read_text("utf-8"))
    fingerprint = Fingerprint(**manifest["fingerprint"])
    connect_to_ray()
    count = ray.remote(statistics_of_shard)
    figures = add_up(
        map(ray.get, [count.remote(storage, name, fingerprint.codebook_size) for name in shards])
    ).summary()
    figures |= {"rows_rejected": manifest["rows_rejected"], "rejects_by_reason": manifest["rejects_by_reason"]}
    show(figures)
    if options.rows:
        sheet = draw_sheet(recipe, paths, storage, shards, fingerprint, options)
        say(f"inspect_tokens: random rows, decoded from their codes and ids, are in {sheet}")
    return figures


def show(figures: dict[str, Any]) -> None:
    """Prints a table."""
    table = Table(show_header=False)
    for name, value in figures.items():
        for inner, number in value.items() if isinstance(value, dict) else [("", value)]:
            for last, figure in number.items() if isinstance(number, dict) else [("", number)]:
                text = f"{figure:,.1f}" if isinstance(figure, float) else f"{figure:,}"
                table.add_row(" ".join(filter(None, (name, inner, last))), text)
    console.print(table)


def draw_sheet(
    recipe: Recipe,
    paths: RunPaths,
    storage: Storage,
    shards: list[str],
    fingerprint: Fingerprint,
    options: Options,
) -> Path:
    """Writes the sheet into the run's folder; needs the VQ-GAN and the vocabulary that made the tokens."""
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    for name, have, want in (
        ("VQ-GAN", image_tokenizer_sha256(paths.vqgan), fingerprint.vq_sha256),
        ("text vocabulary", text_vocabulary_sha256(tokenizer), fingerprint.text_vocabulary_sha256),
    ):
        if have != want:
            raise InputError(f"{str(storage)!r} was made with another {name} than the recipe's; use the recipe it had")
    vqgan = ImageTokenizer(paths.vqgan)
    generator = np.random.default_rng(options.seed)
    cells = []
    for name in generator.choice(shards, options.rows):
        with storage.local(str(name)) as path:
            table = pq.read_table(path, columns=["codes", "captions", "document"])
        if not len(table):
            continue
        row = table.slice(int(generator.integers(len(table))), 1).to_pylist()[0]
        texts = [caption["ids"] for caption in row["captions"]] or [row["document"]["before"]]
        ids = texts[int(generator.integers(len(texts)))]
        cells.append((tokenizer.decode(ids), vqgan.decode(np.asarray([row["codes"]]))[0]))
    if not cells:
        raise InputError(f"{str(storage)!r} has no row to draw")
    paths.run.mkdir(parents=True, exist_ok=True)
    columns = [cells[start::COLUMNS] for start in range(min(COLUMNS, len(cells)))]
    drawings = not recipe.corpus.path and not options.tokens
    picture_sheet(columns, ATTRIBUTION if drawings else str(storage)).save(paths.run / SHEET_FILE)
    return paths.run / SHEET_FILE


if __name__ == "__main__":
    run_job(Options, main, __doc__)
