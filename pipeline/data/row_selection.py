"""Selects the rows of a token table that a stage uses, by queries."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.data.row_index import RowIndex
from pipeline.data.side_tables import SideTable
from pipeline.errors import InputError
from tokenization.table.queries import matching, with_numbers, with_texts
from tokenization.table.token_table import (
    OWN_COLUMNS,
    TokenShard,
    common_fingerprint,
    list_token_shards,
    read_content,
)

HEAVY_COLUMNS = ("codes", "codes_hr", "captions", "crop", "document")
PICTURE_BORDERS = 2


@dataclass(frozen=True)
class RowSelection:
    """The settings that decide which rows of a token table are used.

    Attributes:
        tokens: folder or URL of token shards.
        where: a pandas query over the plain columns of the token table and of side tables; empty selects all. For a
            document, the first picture's row decides.
        side_tables: see `Source`.
        max_document_ids: longer documents are left out, and counted; None leaves none out.
        held_out: another query, whose rows are left out.
    """

    tokens: str | Path
    where: str = ""
    side_tables: tuple[str, ...] = ()
    max_document_ids: int | None = None
    held_out: str = ""


def build_row_index(selection: RowSelection) -> RowIndex:
    """Reads the columns that the selection needs, from all shards, and builds the index.

    Raises:
        InputError: the token folder or a side table cannot be used, or a query names an unknown column or selects
            nothing.
    """
    shards = list_token_shards(selection.tokens)
    common_fingerprint(shards)
    sides = [SideTable(path) for path in selection.side_tables]
    rows, num_too_long, not_numbers = [], 0, Counter[str]()
    names_of = [[name for name in shard.schema().names if name not in HEAVY_COLUMNS] for shard in shards]
    known = sorted(set().union(*names_of))
    for shard, names in zip(shards, names_of, strict=True):
        # A column without a value in a shard is missing from that shard, and counts as empty for all its rows.
        frame = shard.read(names).to_pandas().reindex(columns=known)
        for side in sides:
            frame = side.join(frame, shard.name)
        samples, too_long = _samples(shard, len(frame), selection.max_document_ids)
        num_too_long += too_long
        frame = frame.iloc[samples]
        chosen, lost = _query(frame, selection.where)
        if selection.held_out:
            held_out, also_lost = _query(chosen, selection.held_out)
            chosen, lost = chosen.drop(index=held_out.index), lost | also_lost
        not_numbers.update(lost)
        rows.append(chosen.index.to_numpy())
    for side in sides:
        side.check_matched()
    contents = tuple(read_content(shard) for shard in shards)
    index = RowIndex.of([shard.name for shard in shards], rows, num_too_long, contents, dict(not_numbers))
    if not index.counts.sum():
        longest = selection.max_document_ids
        longer = f", and {num_too_long} documents are longer than {longest} ids" if num_too_long else ""
        raise InputError(f"filter {selection.where!r} selects no row of {str(selection.tokens)!r}{longer}; relax it")
    return index


def _query(frame: pd.DataFrame, where: str) -> tuple[pd.DataFrame, Counter[str]]:
    """The rows that match, and by column how many values should be numbers and are not."""
    if not where or not len(frame):
        return frame, Counter()
    numbers, lost = with_numbers(frame, where, unchanged=OWN_COLUMNS)
    try:
        texts = with_texts(numbers, where, unchanged=OWN_COLUMNS)
        return frame.loc[matching(texts, where).index], lost
    except Exception as error:  # the query's own operations can raise any exception
        columns = ", ".join(map(str, frame.columns))
        raise InputError(f"filter {where!r} cannot be applied: {error}; the columns are {columns}") from error


def _samples(shard: TokenShard, num_rows: int, max_document_ids: int | None) -> tuple[np.ndarray, int]:
    """Returns the row numbers at which samples start, and the number of documents that are too long."""
    document = shard.read(["document"])["document"].combine_chunks()
    if not isinstance(document, pa.StructArray) or document.null_count == num_rows:
        return np.arange(num_rows), 0
    in_document = document.is_valid().to_numpy(zero_copy_only=False)
    place = document.field("place").fill_null(0).to_numpy(zero_copy_only=False)
    starts = np.nonzero(place == 0)[0]
    if max_document_ids is None:
        return starts, 0
    num_codes = shard.schema().field("codes").type.list_size
    lengths = np.full(num_rows, num_codes + PICTURE_BORDERS)
    for name in ("before", "after"):
        lengths += pa.compute.list_value_length(document.field(name)).fill_null(0).to_numpy(zero_copy_only=False)
    fits = (np.add.reduceat(lengths, starts) < max_document_ids) | ~in_document[starts]  # `<`: an end id follows
    return starts[fits], int((~fits).sum())
