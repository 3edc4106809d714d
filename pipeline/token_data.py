"""Reading token shards for training: which rows a stage uses, and the rows themselves."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from tokenization.token_table import common_fingerprint, list_token_shards

HEAVY_COLUMNS = ("codes", "codes_hr", "captions", "crop")
READ_COLUMNS = ("sample_id", "codes", "codes_hr", "captions")


@dataclass(frozen=True)
class Caption:
    """One caption: its language and its text ids."""

    language: str
    ids: list[int]


@dataclass(frozen=True)
class Row:
    """One picture: its codes, uint16 [N], those of the high resolution, uint16 [M] or None, and its captions."""

    sample_id: str
    codes: np.ndarray
    high_codes: np.ndarray | None
    captions: list[Caption]


@dataclass(frozen=True)
class RowIndex:
    """The rows of each shard that a stage uses.

    Attributes:
        shards: paths relative to the token folder, sorted.
        rows: for each shard its selected row numbers, int32.
    """

    shards: list[str]
    rows: list[np.ndarray]

    @property
    def counts(self) -> np.ndarray:
        """Selected rows of each shard, int64."""
        return np.asarray([len(rows) for rows in self.rows], np.int64)

    def sha256(self) -> str:
        """Identifies the selection."""
        digest = hashlib.sha256("\n".join(self.shards).encode())
        for rows in self.rows:
            digest.update(len(rows).to_bytes(8, "little") + rows.tobytes())
        return digest.hexdigest()


def build_row_index(tokens: Path, where: str) -> RowIndex:
    """Selects rows by `where`, a pandas query over the token table's plain columns; empty selects all.

    Raises:
        InputError: the token folder cannot be used, or `where` names an unknown column or selects nothing.
    """
    shards = list_token_shards(tokens)
    common_fingerprint(shards)
    rows = []
    names_of = {path: [name for name in pq.read_schema(path).names if name not in HEAVY_COLUMNS] for path in shards}
    known = sorted(set().union(*names_of.values()))
    for path in shards:
        # A column that no picture of a shard had is missing from that shard, and empty for all its rows.
        frame = pq.read_table(path, columns=names_of[path]).to_pandas().reindex(columns=known)
        try:
            chosen = frame.query(where, engine="python") if where and len(frame) else frame
        except (ValueError, SyntaxError, TypeError, KeyError, pd.errors.UndefinedVariableError) as error:
            columns = ", ".join(known)
            raise InputError(f"filter {where!r} cannot be applied: {error}; the columns are {columns}") from error
        rows.append(chosen.index.to_numpy(np.int32))
    index = RowIndex([path.relative_to(tokens).as_posix() for path in shards], rows)
    if not index.counts.sum():
        raise InputError(f"filter {where!r} selects no row of {str(tokens)!r}; relax it")
    return index


def caption_texts(tokens: Path, index: RowIndex) -> dict[str, dict[str, str]]:
    """For each selected row its captions' texts by language, under its sample id, in the index's order."""
    texts: dict[str, dict[str, str]] = {}
    for shard, rows in zip(index.shards, index.rows, strict=True):
        table = pq.read_table(tokens / shard, columns=["sample_id", "captions"]).take(pa.array(rows))
        for sample_id, captions in zip(table["sample_id"].to_pylist(), table["captions"].to_pylist(), strict=True):
            texts[sample_id] = {caption["lang"]: caption["text"] for caption in captions}
    return texts


class TokenReader:
    """Reads rows by shard and place, holding the last few shards."""

    def __init__(self, tokens: Path, index: RowIndex, held_shards: int) -> None:
        self._tokens, self._index, self._held = tokens, index, held_shards
        self._cache: OrderedDict[int, list[Row]] = OrderedDict()

    def row(self, shard: int, place: int) -> Row:
        """The `place`-th selected row of the `shard`-th shard."""
        if shard not in self._cache:
            self._cache[shard] = self._read(shard)
            while len(self._cache) > self._held:
                self._cache.popitem(last=False)
        self._cache.move_to_end(shard)
        return self._cache[shard][place]

    def _read(self, shard: int) -> list[Row]:
        path = self._tokens / self._index.shards[shard]
        table = pq.read_table(path, columns=list(READ_COLUMNS)).select(READ_COLUMNS)
        table = table.take(self._index.rows[shard])
        return [
            Row(
                sample_id.as_py(),
                codes.values.to_numpy(),
                high_codes.values.to_numpy() if high_codes.is_valid else None,
                [Caption(caption["lang"], caption["ids"]) for caption in captions.as_py()],
            )
            for sample_id, codes, high_codes, captions in zip(*table.columns, strict=True)
        ]
