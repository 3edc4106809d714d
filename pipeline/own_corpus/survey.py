"""Looks at some samples of a corpus: how many rows it has, its captions, and its pictures' sizes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError, UsageError
from pipeline.own_corpus.captions import CaptionColumn, caption_columns, columns_not_taken, texts_of
from tokenization.config.pictures import Transform
from tokenization.config.sources import CorpusSource
from tokenization.corpora.corpus import Corpus, format_class
from tokenization.corpora.folder import PictureFolder
from tokenization.corpora.pictures import load_picture
from tokenization.corpora.samples import Sample
from tokenization.files.ranged_file import RangedFile

Item = TypeVar("Item")

SHARDS_LOOKED_AT = 8
FOOTERS_READ = 64
"""Parquet shards whose numbers of rows are read; more are extrapolated."""
ROWS_COUNTED = 1000
"""Other shards are read until they had so many rows; the rows of further shards are extrapolated."""
MOST_NAMES = 20_000
"""Names of rows that are kept, drawn from those that are known."""


@dataclass(frozen=True)
class Look:
    """A usable sample: what is shown of it, and what sizes are chosen by.

    Attributes:
        width, height: size of the source, px.
        pixels: uint8 [size_px, size_px, 3], cropped and scaled.
        sample: its captions.
    """

    width: int
    height: int
    pixels: np.ndarray
    sample: Sample


@dataclass(frozen=True)
class Survey:
    """What a look at a corpus found.

    Attributes:
        source: the corpus, with its layout.
        shards: number of its shards.
        rows: number of its rows.
        rows_counted: False if `rows` is extrapolated.
        names: keys of samples, drawn from all of those whose keys the count has brought.
        looks: the usable ones of the samples that were looked at.
        rejects: the others, by reason.
        columns: its caption columns.
        not_taken: other columns with sentences.
    """

    source: CorpusSource
    shards: int
    rows: int
    rows_counted: bool
    names: tuple[str, ...]
    looks: tuple[Look, ...]
    rejects: dict[str, int]
    columns: tuple[CaptionColumn, ...]
    not_taken: tuple[str, ...]

    @property
    def usable_rows(self) -> int:
        """Rows that tokenization is expected to use."""
        looked_at = len(self.looks) + sum(self.rejects.values())
        return max(1, round(self.rows * len(self.looks) / looked_at))

    @property
    def texts(self) -> dict[str, list[str]]:
        """The captions that were looked at, by language."""
        found: dict[str, list[str]] = {}
        for column in self.columns:
            found.setdefault(column.language, []).extend(texts_of([look.sample for look in self.looks], column.name))
        return found

    def captions_of(self, look: Look) -> list[str]:
        """Its captions, one from each column that has one."""
        return [text for column in self.columns for text in texts_of([look.sample], column.name)]

    def share_at_least(self, side_px: int) -> float:
        """Share of the pictures whose shorter side has at least so many px."""
        return float(np.mean([min(look.width, look.height) >= side_px for look in self.looks]))


def survey_corpus(place: str, layout: str, num_samples: int, size_px: int) -> Survey:
    """Looks at samples of up to eight shards that lie at equal distances.

    Args:
        place: folder or prefix of a bucket.
        layout: one of `CORPUS_FORMATS`; empty: detected from the files.
        num_samples: samples to look at.
        size_px: side of the pictures that `Look` has.

    Raises:
        InputError: it is no corpus, or none of the samples can be used.
        UsageError: it holds interleaved documents.
    """
    corpus = Corpus(CorpusSource(place, layout))
    source = replace(corpus.source, layout=corpus.layout)
    if corpus.layout == "documents":
        raise UsageError(f"corpus {place!r} holds interleaved documents; write a recipe as docs/extending.md shows")
    shards, (rows, counted, names) = len(corpus.shards), _rows(corpus)
    if issubclass(format_class(corpus.layout), PictureFolder):  # pictures of the whole folder, not of its beginning
        shard_rows = -(-min(num_samples, rows) // SHARDS_LOOKED_AT) or 1
        corpus = Corpus(replace(source, folder_shard_rows=shard_rows))
    samples = _some_samples(corpus, num_samples)
    whole = [sample for sample in samples if not sample.problem]
    columns = tuple(caption_columns(whole))
    looks, rejects = _looks(samples, columns, size_px)
    if not looks:
        found = ", ".join(f"{count} x {reason}" for reason, count in rejects.items()) or "its first shards are empty"
        raise InputError(f"corpus {place!r}: none of the {len(samples)} samples looked at can be used: {found}")
    not_taken = tuple(columns_not_taken(whole, columns))
    return Survey(source, shards, rows, counted, tuple(names), tuple(looks), dict(rejects), columns, not_taken)


def _some_samples(corpus: Corpus, num_samples: int) -> list[Sample]:
    """Samples from the beginnings of shards at equal distances."""
    places = np.linspace(0, len(corpus.shards) - 1, min(SHARDS_LOOKED_AT, len(corpus.shards)))
    chosen = [corpus.shards[int(place)] for place in places]
    each = -(-num_samples // len(chosen))
    return [sample for shard in chosen for sample in islice(corpus.read(shard), each)][:num_samples]


def _looks(
    samples: Sequence[Sample], columns: Sequence[CaptionColumn], size_px: int
) -> tuple[list[Look], Counter[str]]:
    looks: list[Look] = []
    rejects: Counter[str] = Counter()
    for sample in samples:
        if sample.problem:
            rejects[sample.problem[0]] += 1
        elif not any(texts_of([sample], column.name) for column in columns):
            rejects["no caption"] += 1
        else:
            assert sample.picture is not None
            try:
                picture = load_picture(sample.picture, Transform(size_px))
            except ValueError:
                rejects["bad picture"] += 1
                continue
            without_bytes = replace(sample, picture=None)
            looks.append(Look(picture.width, picture.height, picture.pixels, without_bytes))
    return looks, rejects


def _rows(corpus: Corpus) -> tuple[int, bool, list[str]]:
    """The number of rows; True if it was counted: by a folder's listing, by parquet's footers, or by reading all
    shards; and names of rows. Rows of shards that are not read are taken to have as many bytes as those of the others.
    """
    kind = format_class(corpus.layout)
    if issubclass(kind, PictureFolder):
        listing = kind(corpus.storage, corpus.source).listing
        return len(listing), True, _drawn([sample.key for _, sample in listing if not sample.problem], MOST_NAMES)
    if corpus.layout == "parquet":
        read = [corpus.shards[int(place)] for place in np.linspace(0, len(corpus.shards) - 1, FOOTERS_READ)]
        read = list(dict.fromkeys(read))
        counts = [_parquet_rows(corpus, shard) for shard in read]
        keys = [f"{row:09d}" for count in counts for row in _drawn(range(count), MOST_NAMES // len(read))]
        return round(sum(counts) / len(counts) * len(corpus.shards)), len(read) == len(corpus.shards), keys
    names, read = list[str](), list[str]()
    for shard in corpus.shards:
        if len(names) >= ROWS_COUNTED:
            break
        names += [sample.key for sample in corpus.read(shard)]
        read.append(shard)
    rows, known = len(names), _drawn(names, MOST_NAMES)
    if len(read) == len(corpus.shards):
        return rows, True, known
    of_read, of_all = (sum(map(corpus.storage.size, shards)) for shards in (read, corpus.shards))
    return round(rows * of_all / max(1, of_read)), False, known


def _drawn(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, the same ones each time."""
    return Random(0).sample(items, min(most, len(items)))


def _parquet_rows(corpus: Corpus, shard: str) -> int:
    try:
        with pq.ParquetFile(pa.PythonFile(RangedFile(corpus.storage, shard))) as file:
            return int(file.metadata.num_rows)
    except pa.ArrowException as error:
        raise InputError(f"shard {shard!r} of {corpus.source.url!r} is no readable parquet: {error}") from error
