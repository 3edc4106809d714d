"""Draws held-out rows of a run, by seed."""

from dataclasses import dataclass, field

import numpy as np

from pipeline.config.recipe import Recipe
from pipeline.config.stage import Source, StageConfig
from pipeline.data.row_index import RowIndex
from pipeline.data.row_index_cache import cached_row_index
from pipeline.data.row_selection import RowSelection
from pipeline.data.rows import Row
from pipeline.data.token_reader import TokenReader, caption_texts
from pipeline.errors import InputError, UsageError
from pipeline.runs.paths import RunPaths

MOST_SHARDS = 16
"""Rows are drawn from at most so many shards: each of them is read whole."""
FREQUENCY_ROWS = 20_000
"""Trained rows, at most, whose codes' frequencies are counted."""


@dataclass(frozen=True)
class DrawnRows:
    """Rows drawn from a run's tokens.

    Attributes:
        rows: the rows, in the order of the shards. None is an interleaved document.
        texts: their captions by language, by sample id.
        of: the number of rows that they were drawn from.
        held_out: False if the recipe holds no rows out, so that they are trained ones.
        code_counts: how often each code occurs in some rows that the stage trained on, int64 [codebook_size].
    """

    rows: list[Row]
    texts: dict[str, dict[str, str]]
    of: int
    held_out: bool
    code_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def prompts(self) -> list[tuple[Row, str, str]]:
        """Each row with one of its captions and that one's language; languages take turns."""
        found = []
        for number, row in enumerate(self.rows):
            texts = list(self.texts[row.sample_id].items())
            if texts:
                language, text = texts[number % len(texts)]
                found.append((row, text, language))
        return found


def draw_rows(recipe: Recipe, paths: RunPaths, count: int, seed: int, codebook_size: int) -> DrawnRows:
    """Draws `count` rows, or all if there are fewer, of those that the last stage with the first corpus holds out.

    Raises:
        UsageError: no stage uses the first corpus.
        InputError: all rows are interleaved documents, or no row is held out although a query says so.
    """
    number, stage, source = _last_stage(recipe)
    kept, name = paths.stage(number) / "rows", recipe.first_corpus
    tokens = paths.tokens_of(name)
    trained = RowSelection(tokens, source.where, source.side_tables, stage.seq_len, source.held_out)
    index = trained_index = cached_row_index(kept / f"{name}.arrow", trained).index
    if source.held_out:
        selection = RowSelection(tokens, source.held_out, source.side_tables, stage.seq_len)
        index = cached_row_index(kept / f"{name}.held_out.arrow", selection).index
    random = np.random.default_rng(seed)
    chosen = _some_rows(index, count, random)
    reader = TokenReader(tokens, chosen, held_shards=1)
    rows = [reader.row(shard, row) for shard, each in enumerate(chosen.counts) for row in range(each)]
    single = [row for row in rows if row.document is None]
    if not single:
        raise InputError(f"the rows of {tokens!r} are interleaved documents, which jobs/evaluate.py does not score")
    counts = _code_counts(tokens, _some_rows(trained_index, FREQUENCY_ROWS, random), codebook_size)
    texts = caption_texts(tokens, chosen)
    return DrawnRows(single, texts, int(index.counts.sum()), bool(source.held_out), counts)


def _last_stage(recipe: Recipe) -> tuple[int, StageConfig, Source]:
    for number, stage in reversed([*enumerate(recipe.stages, start=1)]):
        if source := stage.sources.get(recipe.first_corpus):
            return number, stage, source
    raise UsageError(f"no stage of recipe {recipe.name!r} uses its first corpus, {recipe.first_corpus!r}")


def _some_rows(index: RowIndex, count: int, random: np.random.Generator) -> RowIndex:
    """An index of at most `count` of the rows, of at most `MOST_SHARDS` shards."""
    filled = random.permutation(np.flatnonzero(index.counts))[:MOST_SHARDS]
    shards = np.sort(filled)
    places = [(shard, row) for shard in shards.tolist() for row in index.rows(shard).tolist()]
    taken = np.sort(random.permutation(len(places))[:count])
    by_shard: dict[int, list[int]] = {shard: [] for shard in shards.tolist()}
    for place in taken.tolist():
        shard, row = places[place]
        by_shard[shard].append(row)
    names = [index.shards[shard] for shard in by_shard]
    return RowIndex.of(names, [np.asarray(rows, np.int64) for rows in by_shard.values()])


def _code_counts(tokens: str, index: RowIndex, codebook_size: int) -> np.ndarray:
    reader, counts = TokenReader(tokens, index, held_shards=1, high_resolution=False), np.zeros(codebook_size, np.int64)
    for shard, count in enumerate(index.counts):
        for row in range(count):
            counts += np.bincount(reader.row(shard, row).codes, minlength=codebook_size)
    return counts
