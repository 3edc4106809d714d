"""Reading token shards for training: which rows a stage uses, and the rows themselves."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.errors import InputError
from pipeline.shard_fetcher import ShardFetcher
from pipeline.side_tables import SideTable
from tokenization.storage import LocalFolder, open_storage
from tokenization.token_table import TokenShard, common_fingerprint, list_token_shards

HEAVY_COLUMNS = ("codes", "codes_hr", "captions", "crop", "document")
READ_COLUMNS = ("sample_id", "codes", "codes_hr", "captions", "document")
PICTURE_BORDERS = 2


@dataclass(frozen=True)
class Caption:
    """One caption: its language, its text ids, and the length of its text in UTF-8 bytes."""

    language: str
    ids: list[int]
    num_bytes: int


@dataclass(frozen=True)
class Row:
    """One picture: its codes, uint16 [N], those of the high resolution, uint16 [M] or None, and its captions.

    Or a whole interleaved document: the first picture's values, and in `document` text ids as lists and pictures'
    codes, in order.
    """

    sample_id: str
    codes: np.ndarray
    high_codes: np.ndarray | None
    captions: list[Caption]
    document: list[list[int] | np.ndarray] | None = None


@dataclass(frozen=True)
class RowIndex:
    """The rows of each shard that a stage uses; of an interleaved document its first picture's. A bit a row: 200M rows
    take 25 MB.

    Attributes:
        shards: paths relative to the token folder, sorted.
        chosen: for each shard its rows as bits, the first row's the highest of the first byte, uint8.
        counts: chosen rows of each shard, int64.
        num_too_long: documents that were left out because they have too many ids.
    """

    shards: list[str]
    chosen: list[np.ndarray]
    counts: np.ndarray
    num_too_long: int = 0

    @classmethod
    def of(cls, shards: list[str], rows: Iterable[np.ndarray], num_too_long: int = 0) -> "RowIndex":
        """From each shard's row numbers, rising."""
        chosen, counts = [], []
        for numbers in rows:
            bits = np.zeros(int(numbers[-1]) + 1 if len(numbers) else 0, bool)
            bits[numbers] = True
            chosen.append(np.packbits(bits))
            counts.append(len(numbers))
        return cls(shards, chosen, np.asarray(counts, np.int64), num_too_long)

    def rows(self, shard: int) -> np.ndarray:
        """The row numbers of the `shard`-th shard, rising, int64."""
        return np.flatnonzero(np.unpackbits(self.chosen[shard]))

    def sha256(self) -> str:
        """Identifies the selection."""
        digest = hashlib.sha256("\n".join(self.shards).encode())
        for bits in self.chosen:
            digest.update(len(bits).to_bytes(8, "little") + bits.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class SourceRows:
    """One source of a stage: its corpus's name, its token folder or URL, its rows, and its weight among the sources."""

    name: str
    tokens: str | Path
    index: RowIndex
    weight: float = 1.0


def rows_sha256(sources: tuple[SourceRows, ...]) -> str:
    """Identifies the selections of a stage and their order."""
    return hashlib.sha256(
        "\n".join(f"{source.name} {source.index.sha256()}" for source in sources).encode()
    ).hexdigest()


def build_row_index(
    tokens: str | Path,
    where: str,
    side_tables: tuple[str, ...] = (),
    max_document_ids: int | None = None,
    held_out: str = "",
) -> RowIndex:
    """Selects rows by `where`, a pandas query over the plain columns of the token table and of side tables.

    Args:
        tokens: folder or URL of token shards.
        where: the query; empty selects all. Of a document the first picture's row decides.
        side_tables: see `Source`.
        max_document_ids: longer documents are left out, and counted.
        held_out: another query, whose rows are left out.

    Raises:
        InputError: the token folder or a side table cannot be used, or `where` names an unknown column or selects
            nothing.
    """
    shards = list_token_shards(tokens)
    common_fingerprint(shards)
    sides = [SideTable(path) for path in side_tables]
    rows, num_too_long = [], 0
    names_of = [[name for name in shard.schema().names if name not in HEAVY_COLUMNS] for shard in shards]
    known = sorted(set().union(*names_of))
    for shard, names in zip(shards, names_of, strict=True):
        # A column that no picture of a shard had is missing from that shard, and empty for all its rows.
        frame = shard.read(names).to_pandas().reindex(columns=known)
        for side in sides:
            frame = side.join(frame, shard.name)
        samples, too_long = _samples(shard, len(frame), max_document_ids)
        num_too_long += too_long
        frame = frame.iloc[samples]
        chosen = _query(frame, where)
        if held_out:
            chosen = chosen.drop(index=_query(chosen, held_out).index)
        rows.append(chosen.index.to_numpy())
    for side in sides:
        side.check_matched()
    index = RowIndex.of([shard.name for shard in shards], rows, num_too_long)
    if not index.counts.sum():
        longer = f", and {num_too_long} documents are longer than {max_document_ids} ids" if num_too_long else ""
        raise InputError(f"filter {where!r} selects no row of {str(tokens)!r}{longer}; relax it")
    return index


def _query(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    try:
        return frame.query(where, engine="python") if where and len(frame) else frame
    except (ValueError, SyntaxError, TypeError, KeyError, pd.errors.UndefinedVariableError) as error:
        columns = ", ".join(map(str, frame.columns))
        raise InputError(f"filter {where!r} cannot be applied: {error}; the columns are {columns}") from error


def _samples(shard: TokenShard, num_rows: int, max_document_ids: int | None) -> tuple[np.ndarray, int]:
    """Row numbers at which samples start, and how many documents are too long to be one."""
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
    fits = (np.add.reduceat(lengths, starts) < max_document_ids) | ~in_document[starts]  # less: an end follows
    return starts[fits], int((~fits).sum())


def caption_texts(tokens: str | Path, index: RowIndex) -> dict[str, dict[str, str]]:
    """For each selected row its captions' texts by language, under its sample id, in the index's order."""
    texts: dict[str, dict[str, str]] = {}
    storage = open_storage(tokens)
    for number, name in enumerate(index.shards):
        table = TokenShard(storage, name).read(["sample_id", "captions"]).take(pa.array(index.rows(number)))
        for sample_id, captions in zip(table["sample_id"].to_pylist(), table["captions"].to_pylist(), strict=True):
            texts[sample_id] = {caption["lang"]: caption["text"] for caption in captions}
    return texts


def document_texts(tokens: str | Path, index: RowIndex) -> list[list[list[int]]]:
    """The text ids of each selected interleaved document: before its first picture, between two, and after the last."""
    texts: list[list[list[int]]] = []
    reader = TokenReader(tokens, index, held_shards=1)
    for shard, count in enumerate(index.counts):
        for place in range(count):
            parts = reader.row(shard, place).document
            if parts is not None:
                texts.append([[]])
                for part in parts:
                    if isinstance(part, list):
                        texts[-1][-1] = part
                    else:
                        texts[-1].append([])
    return texts


class TokenReader:
    """Reads samples by shard and place, holding the last few shards as they lie in parquet.

    Args:
        tokens: folder or URL of token shards.
        index: the rows.
        held_shards: how many shards are kept.
        high_resolution: read its codes, too: they take most of the memory. Without them `high_codes` is None.
    """

    def __init__(self, tokens: str | Path, index: RowIndex, held_shards: int, high_resolution: bool = True) -> None:
        self._storage, self._index, self._held = open_storage(tokens), index, held_shards
        self._columns = [name for name in READ_COLUMNS if high_resolution or name != "codes_hr"]
        self._cache: OrderedDict[int, tuple[pa.Table, np.ndarray]] = OrderedDict()
        is_local = isinstance(self._storage, LocalFolder)
        self._fetcher = None if is_local else ShardFetcher(self._storage, self._columns)

    def ahead(self, shards: list[int]) -> None:
        """Has shards come that will be read soon, where they do not lie on this machine's file systems."""
        if self._fetcher:
            wanted = [shard for shard in shards if shard not in self._cache and self._index.counts[shard]]
            self._fetcher.ahead(self._index.shards[shard] for shard in wanted)

    def row(self, shard: int, place: int) -> Row:
        """The `place`-th selected sample of the `shard`-th shard."""
        if shard not in self._cache:
            self._cache[shard] = self._read(shard)
            while len(self._cache) > self._held:
                self._cache.popitem(last=False)
        self._cache.move_to_end(shard)
        table, rows = self._cache[shard]
        return self._sample(table, int(rows[place]), f"{self._storage}/{self._index.shards[shard]}")

    def _read(self, shard: int) -> tuple[pa.Table, np.ndarray]:
        name = self._index.shards[shard]
        whole = self._fetcher.take(name) if self._fetcher else TokenShard(self._storage, name).read(self._columns)
        table = whole.select(self._columns)
        rows = self._index.rows(shard)
        if table["document"].null_count == len(table):  # no sample is made of several rows
            table, rows = table.take(pa.array(rows)), np.arange(len(rows))
        return table.replace_schema_metadata().combine_chunks(), rows

    def _sample(self, table: pa.Table, row: int, shard: str) -> Row:
        values = {name: table[name][row] for name in self._columns}
        high_codes, document = values.get("codes_hr"), values["document"]
        first = Row(
            values["sample_id"].as_py(),
            values["codes"].values.to_numpy(),
            high_codes.values.to_numpy() if high_codes is not None and high_codes.is_valid else None,
            [Caption(each["lang"], each["ids"], len(each["text"].encode())) for each in values["captions"].as_py()],
        )
        if not document.is_valid:
            return first
        pictures = table.slice(row, document["of"].as_py())
        places = pictures["document"].to_pylist()
        if [(each["id"], each["place"]) for each in places] != [
            (document["id"].as_py(), place) for place in range(document["of"].as_py())
        ]:
            raise InputError(f"document {document['id'].as_py()!r} is not whole in {shard!r}; tokenize it again")
        parts: list[list[int] | np.ndarray] = []
        for place, picture in zip(places, pictures["codes"], strict=True):
            before, after = place["before"] or [], place["after"] or []
            parts += [part for part in (before, picture.values.to_numpy(), after) if len(part)]
        return Row(first.sample_id, first.codes, first.high_codes, first.captions, parts)
