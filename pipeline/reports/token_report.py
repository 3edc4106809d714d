"""Describes a token dataset: statistics, and a sheet of random rows decoded to pictures and captions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from rich.table import Table

from pipeline.config.recipe import Recipe
from pipeline.errors import InputError
from pipeline.pages.sheets import picture_sheet
from pipeline.runs.paths import RunPaths
from pipeline.runs.token_check import check_made_with
from pipeline.runtime.ray_connection import connect_to_ray
from tokenization.files.atomic_writing import write_png
from tokenization.files.storage import Storage, open_storage
from tokenization.table.statistics import add_up, statistics_of_shard
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint
from tokenization.text_tokenizer import load_text_tokenizer
from tokenization.vqgan.image_tokenizer import ImageTokenizer

SHEET_FILE = "tokens.png"
COLUMNS = 6


class TokenDataset:
    """Token shards with their manifest.

    Args:
        location: folder or prefix of a bucket.

    Raises:
        InputError: there is no shard, or no manifest.
    """

    def __init__(self, location: str) -> None:
        self.storage: Storage = open_storage(location)
        names = self.storage.names()
        self.shards = [name for name in names if name.endswith(".parquet")]
        if not self.shards or MANIFEST_FILE not in names:
            what = "no token shard" if not self.shards else f"no {MANIFEST_FILE}: tokenization did not finish"
            raise InputError(f"{str(self.storage)!r} has {what}; run jobs/tokenize.py first")
        with self.storage.local(MANIFEST_FILE) as path:
            self.manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
        self.fingerprint = Fingerprint(**self.manifest["fingerprint"])


def token_statistics(tokens: TokenDataset) -> dict[str, Any]:
    """Returns counts over all shards, computed in one Ray task for each, and the rejects."""
    connect_to_ray()
    count = ray.remote(statistics_of_shard)
    codebook_size = tokens.fingerprint.codebook_size
    pending = [count.remote(tokens.storage, name, codebook_size) for name in tokens.shards]
    rejects = {name: tokens.manifest[name] for name in ("rows_rejected", "rejects_by_reason")}
    ignored = {name: tokens.manifest[name] for name in ("ignored",) if name in tokens.manifest}
    return add_up(map(ray.get, pending)).summary() | rejects | ignored


def statistics_table(figures: dict[str, Any]) -> Table:
    """Formats the statistics as a table for a person."""
    table = Table(show_header=False)
    for name, value in figures.items():
        for inner, number in value.items() if isinstance(value, dict) else [("", value)]:
            for last, figure in number.items() if isinstance(number, dict) else [("", number)]:
                text = f"{figure:,.1f}" if isinstance(figure, float) else f"{figure:,}"
                table.add_row(" ".join(filter(None, (name, inner, last))), text)
    return table


def write_token_sheet(
    recipe: Recipe, paths: RunPaths, tokens: TokenDataset, num_rows: int, seed: int, footer: str
) -> Path:
    """Writes a sheet of random rows into the run's folder. Returns its path.

    Raises:
        InputError: no row was drawn, or a VQ-GAN or vocabulary other than the recipe's made the tokens.
    """
    check_made_with(recipe, paths, tokens.fingerprint, str(tokens.storage))
    tokenizer, vqgan = load_text_tokenizer(recipe.text_tokenizer, paths.text), ImageTokenizer(paths.vqgan)
    generator = np.random.default_rng(seed)
    cells = []
    for name in generator.choice(tokens.shards, num_rows):
        with tokens.storage.local(str(name)) as path:
            table = pq.read_table(path, columns=["codes", "captions", "document"])
        if not len(table):
            continue
        row = table.slice(int(generator.integers(len(table))), 1).to_pylist()[0]
        texts = [caption["ids"] for caption in row["captions"]] or [row["document"]["before"]]
        ids = texts[int(generator.integers(len(texts)))]
        cells.append((tokenizer.decode(ids), vqgan.decode(np.asarray([row["codes"]]))[0]))
    if not cells:
        raise InputError(f"{str(tokens.storage)!r} has no row to draw")
    columns = [cells[start::COLUMNS] for start in range(min(COLUMNS, len(cells)))]
    write_png(paths.run / SHEET_FILE, picture_sheet(columns, footer))
    return paths.run / SHEET_FILE
