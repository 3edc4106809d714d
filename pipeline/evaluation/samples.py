"""The generated and scored samples of a run, and the files with their results."""

import numpy as np
import pandas as pd

from pipeline.config.recipe import Recipe
from pipeline.config.stage import LANGUAGES, Source
from pipeline.data.row_index import RowIndex
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.data.token_reader import TokenReader, caption_texts
from pipeline.runs.paths import RunPaths
from pipeline.runtime.terminal import say, say_error
from tokenization.table.queries import non_number_messages

PICTURES_FILE, CAPTIONS_FILE = "pictures.parquet", "captions.parquet"
GRID_FILE, VQ_SHEET_FILE = "grid.png", "vq_sheet.png"
"""Files in `RunPaths.samples`."""
MOST_ROWS = 2000
"""Trained rows that are generated and scored, at most, where the recipe's `evaluation.where` selects none."""


def trained_samples(recipe: Recipe, paths: RunPaths) -> pd.DataFrame:
    """Returns the training samples of the last stage, with one row for each language of a sample.

    Columns: sample_id, language, caption, codes, high_codes (None if there are none).
    """
    return _rows(paths, recipe.stages[-1].sources[recipe.first_corpus])


def scored_samples(recipe: Recipe, paths: RunPaths) -> pd.DataFrame:
    """Returns the samples to generate and score, with the columns of `trained_samples`.

    They are those that `evaluation.where` selects, or trained ones, of many `MOST_ROWS` at equal distances.
    """
    if not recipe.evaluation.where:
        return _rows(paths, recipe.stages[-1].sources[recipe.first_corpus], MOST_ROWS)
    return _rows(paths, Source(where=recipe.evaluation.where))


def some_of(index: RowIndex, count: int) -> RowIndex:
    """An index of `count` of the rows, at equal distances, or of all if there are fewer."""
    total, ends = int(index.counts.sum()), np.cumsum(index.counts)
    if total <= count:
        return index
    places = np.linspace(0, total - 1, count).astype(np.int64)
    shards = np.searchsorted(ends, places, side="right")
    starts = ends - index.counts
    chosen = {shard: places[shards == shard] - starts[shard] for shard in np.unique(shards).tolist()}
    return RowIndex.of([index.shard(shard) for shard in chosen], [index.rows(s)[own] for s, own in chosen.items()])


def _rows(paths: RunPaths, source: Source, most: int = 0) -> pd.DataFrame:
    index = build_row_index(RowSelection(paths.tokens, source.where, source.side_tables, held_out=source.held_out))
    for message in non_number_messages(index.not_numbers, "`where`"):
        say_error(message)
    if most and (total := int(index.counts.sum())) > most:
        say(f"{most} of {total} trained rows are generated and scored; jobs/evaluate.py --rows scores held-out ones")
        index = some_of(index, most)
    texts = caption_texts(paths.tokens, index)
    reader = TokenReader(paths.tokens, index, held_shards=1)
    rows = []
    for shard, count in enumerate(index.counts):
        for row_number in range(count):
            row = reader.row(shard, row_number)
            own = dict(sample_id=row.sample_id, codes=row.codes, high_codes=row.high_codes)
            for language in LANGUAGES:
                text = texts[row.sample_id].get(language)
                if text:
                    rows.append(own | dict(language=language, caption=text))
    return pd.DataFrame(rows)
