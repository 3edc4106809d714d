"""The CPU side of tokenization: from one input shard to chunks of decoded pictures with their captions' ids."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerFast

from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.pictures import Picture, load_picture
from tokenization.corpora.samples import Sample, readable
from tokenization.errors import InputError
from tokenization.table.token_table import OWN_COLUMNS
from tokenization.text_tokenizer import text_ids


@dataclass
class Chunk:
    """Up to `encode_batch_size` rows of one shard.

    `pixels` uint8 [encode_batch_size, S, S, 3], padded with zeros; `rows` without their codes;
    `pixels_hr` uint8 [n, S_hr, S_hr, 3], and `places_hr` the indices of their rows; `rejects` since the previous chunk;
    `last` is True in the shard's last chunk; `error` is set if the shard cannot be read.
    """

    shard: str
    index: int
    pixels: np.ndarray
    rows: list[dict[str, Any]] = field(default_factory=list)
    pixels_hr: np.ndarray | None = None
    places_hr: list[int] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)
    last: bool = False
    error: str = ""


def read_chunks(
    corpus: Corpus, shard: str, config: TokenizationConfig, tokenizer: PreTrainedTokenizerFast
) -> Iterator[Chunk]:
    """Yields the chunks of one shard, in its order. A sample that cannot be used becomes a reject.

    Raises:
        InputError: the shard cannot be read to its end.
    """
    seen: set[str] = set()
    index, rejects = 0, list[dict[str, str]]()
    usable: list[_Usable] = []
    for samples in _by_document(corpus.read(shard)):
        whole, problems = _checked_together(samples, seen, config)
        usable += whole
        rejects += [
            {"shard": shard, "key": sample.key, "reason": reject.reason, "message": str(reject)}
            for sample, reject in zip(samples, problems, strict=False)
        ]
        while len(usable) > config.encode_batch_size:
            yield _chunk(shard, index, usable[: config.encode_batch_size], rejects, config, tokenizer)
            index, usable, rejects = index + 1, usable[config.encode_batch_size :], []
    chunk = _chunk(shard, index, usable, rejects, config, tokenizer)
    chunk.last = True
    yield chunk


@dataclass(frozen=True)
class _Usable:
    """A sample that becomes a row. `texts`: captions by column; for a document's picture, the texts around it."""

    sample: Sample
    texts: dict[str, str]
    picture: Picture


class _Reject(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(readable(message))
        self.reason = reason


def _by_document(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    """Groups the pictures of each document; every other sample is a group of one."""
    document: list[Sample] = []
    for sample in samples:
        document.append(sample)
        if sample.segment is None or sample.segment.place + 1 == sample.segment.of:
            yield document
            document = []


def _checked_together(
    samples: list[Sample], seen: set[str], config: TokenizationConfig
) -> tuple[list[_Usable], list[_Reject]]:
    """Returns the usable samples of a document, or a reject for each: a document is used completely or not at all."""
    usable: list[_Usable] = []
    problems: list[_Reject] = []
    for sample in samples:
        try:
            usable.append(_checked(sample, seen, config))
            problems.append(_Reject("bad document", "another picture of its document cannot be used"))
        except _Reject as reject:
            problems.append(reject)
    return (usable, []) if len(usable) == len(samples) else ([], problems)


def _checked(sample: Sample, seen: set[str], config: TokenizationConfig) -> _Usable:
    if sample.key in seen:
        raise _Reject("repeated key", f"key {sample.key!r} occurs before in this shard")
    seen.add(sample.key)
    if sample.problem:
        raise _Reject(*sample.problem)
    texts = _texts(sample, config)
    if not texts and sample.segment is None:
        wanted = ", ".join(config.caption_columns)
        raise _Reject("no caption", f"none of the columns {wanted} holds a text")
    for column, text in texts.items():
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise _Reject("bad caption", f"{column} has half of a surrogate pair, which is no text")
    assert sample.picture is not None
    try:
        return _Usable(sample, texts, load_picture(sample.picture, config.transform))
    except ValueError as error:
        raise _Reject("bad picture", str(error)) from error


def _texts(sample: Sample, config: TokenizationConfig) -> dict[str, str]:
    """Captions by column; for a document's picture, the texts around it."""
    if sample.segment is not None:
        around = {"before": sample.segment.before, "after": sample.segment.after}
        return {name: text for name, text in around.items() if text}
    texts = {column: sample.metadata.get(column) for column in config.caption_columns}
    return {column: text for column, text in texts.items() if isinstance(text, str) and text.strip()}


def _chunk(
    shard: str,
    index: int,
    usable: list[_Usable],
    rejects: list[dict[str, str]],
    config: TokenizationConfig,
    tokenizer: PreTrainedTokenizerFast,
) -> Chunk:
    pixels = np.zeros((config.encode_batch_size, config.size_px, config.size_px, 3), np.uint8)
    ids = iter(text_ids(tokenizer, [text for one in usable for text in one.texts.values()]))
    rows = []
    for place, one in enumerate(usable):
        sample, picture = one.sample, one.picture
        pixels[place] = picture.pixels
        whole = {column: next(ids) for column in one.texts}
        largest = max((max(line) for line in whole.values()), default=0)
        if largest >= len(tokenizer):
            raise AssertionError(f"id {largest} outside the text vocabulary")
        captions, document = [], None
        if (segment := sample.segment) is not None:
            around = {name: whole.get(name, []) for name in ("before", "after")}
            document = {"id": segment.document, "place": segment.place, "of": segment.of, **around}
        else:
            for column, text in one.texts.items():
                cut = whole[column][: config.max_caption_ids]
                truncated = len(cut) < len(whole[column])
                language = config.caption_columns[column]
                captions.append({"lang": language, "text": text, "ids": cut, "truncated": truncated})
        left, top, side = picture.crop
        rows.append(
            passed_through(sample, config)
            | {
                "sample_id": f"{shard}/{sample.key}",
                "captions": captions,
                "width": picture.width,
                "height": picture.height,
                "crop": {"left": left, "top": top, "side": side},
                "document": document,
            }
        )
    chunk = Chunk(shard, index, pixels, rows, rejects=rejects)
    if config.size_hr_px and rows:
        chunk.places_hr = _chosen(rows, config.hr_where)
        if chunk.places_hr:
            chunk.pixels_hr = np.stack([_high(usable[place].picture) for place in chunk.places_hr])
    return chunk


def _high(picture: Picture) -> np.ndarray:
    assert picture.high is not None
    return picture.high()


def passed_through(sample: Sample, config: TokenizationConfig) -> dict[str, Any]:
    """The corpus's own columns. A name that the table itself uses gets the prefix `source_`."""
    # The row already has these: its captions, the source's size, and in img2dataset's tars its key.
    dropped = {"width", "height"} if sample.segment else {*config.caption_columns, "width", "height"}
    if sample.metadata.get("key") == sample.key:
        dropped.add("key")
    return {
        f"source_{name}" if name in OWN_COLUMNS else readable(name): value
        for name, value in sample.metadata.items()
        if name not in dropped
    }


def _chosen(rows: list[dict[str, Any]], where: str) -> list[int]:
    """Indices of the rows that match the query. None match if it names a column that no row has."""
    if not where:
        return list(range(len(rows)))
    plain = [{name: value for name, value in row.items() if not isinstance(value, (dict, list))} for row in rows]
    try:
        return query_rows(pd.DataFrame(plain).apply(_numbers), where)
    except pd.errors.UndefinedVariableError:
        return []


def check_query(where: str) -> None:
    """Raises InputError if `where` is not a valid pandas query for any columns."""
    if where:
        with suppress(pd.errors.UndefinedVariableError):
            query_rows(pd.DataFrame({"sample_id": ["x"]}), where)


def query_rows(frame: pd.DataFrame, where: str) -> list[int]:
    """Indices of the rows that match a pandas query.

    Raises:
        InputError: the query is invalid, or compares values that cannot be compared.
        UndefinedVariableError: pandas' error for a missing column.
    """
    try:
        return [int(place) for place in frame.query(where, engine="python").index]
    except pd.errors.UndefinedVariableError:
        raise
    except Exception as error:  # the query's own operations can raise any exception
        raise InputError(f"hr_where {where!r} cannot be applied: {type(error).__name__}: {error}") from error


def _numbers(column: pd.Series) -> pd.Series:
    """Converts a text column to numbers if all its values are numbers, as in a csv file."""
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column


@dataclass(frozen=True)
class Tools:
    """The paths of the two tokenizers, which every worker must be able to read."""

    vq_folder: Path
    text_source: str
    text_cache: Path
