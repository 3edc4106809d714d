"""The drawings of a run that are generated and scored."""

import pandas as pd

from pipeline.config.recipe import Recipe
from pipeline.config.stage import LANGUAGES, Source
from pipeline.data.row_index import RowSelection, build_row_index
from pipeline.data.token_reader import TokenReader, caption_texts
from pipeline.runs.paths import RunPaths


def trained_drawings(recipe: Recipe, paths: RunPaths) -> pd.DataFrame:
    """Rows of the last stage, one a language: sample_id, language, caption, codes, high_codes (None where there are
    none)."""
    source = recipe.stages[-1].sources[recipe.first_corpus]
    return _drawings(paths, source)


def scored_drawings(recipe: Recipe, paths: RunPaths) -> pd.DataFrame:
    """What is generated and scored, as `trained_drawings`: those, where the recipe names no others."""
    if not recipe.evaluation.where:
        return trained_drawings(recipe, paths)
    return _drawings(paths, Source(where=recipe.evaluation.where))


def _drawings(paths: RunPaths, source: Source) -> pd.DataFrame:
    index = build_row_index(RowSelection(paths.tokens, source.where, source.side_tables, held_out=source.held_out))
    texts = caption_texts(paths.tokens, index)
    reader = TokenReader(paths.tokens, index, held_shards=1)
    rows = []
    for shard, count in enumerate(index.counts):
        for place in range(count):
            row = reader.row(shard, place)
            own = dict(sample_id=row.sample_id, codes=row.codes, high_codes=row.high_codes)
            for language in LANGUAGES:
                text = texts[row.sample_id].get(language)
                if text:
                    rows.append(own | dict(language=language, caption=text))
    return pd.DataFrame(rows)
