"""Reads the rows of token shards for training."""

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.data.row_index import RowIndex
from pipeline.data.row_lengths import RowLengths
from pipeline.data.rows import Caption, Row
from pipeline.data.sample_lengths import SampleLengths
from pipeline.data.shard_fetcher import ShardFetcher
from pipeline.errors import InputError
from tokenization.files.local_folder import LocalFolder
from tokenization.files.storage import open_storage
from tokenization.table.token_table import TokenShard

UNUSED_FIELDS = ("text", "truncated")
"""Fields of captions that training does not use: most of a caption's bytes."""
START = "start"
READ_COLUMNS = ("sample_id", "codes", "codes_hr", "captions", "document")


def caption_texts(tokens: str | Path, index: RowIndex) -> dict[str, dict[str, str]]:
    """Maps each selected row's sample id to its captions by language, in the index's order."""
    texts: dict[str, dict[str, str]] = {}
    storage = open_storage(tokens)
    for number, name in enumerate(index.shards):
        table = TokenShard(storage, name).read(["sample_id", "captions"]).take(pa.array(index.rows(number)))
        for sample_id, captions in zip(table["sample_id"].to_pylist(), table["captions"].to_pylist(), strict=True):
            texts[sample_id] = {caption["lang"]: caption["text"] for caption in captions}
    return texts


def document_texts(tokens: str | Path, index: RowIndex) -> list[list[list[int]]]:
    """The text ids of each selected interleaved document: before the first picture, between two, after the last."""
    texts: list[list[list[int]]] = []
    reader = TokenReader(tokens, index, held_shards=1)
    for shard, count in enumerate(index.counts):
        for row_number in range(count):
            parts = reader.row(shard, row_number).document
            if parts is not None:
                texts.append([[]])
                for part in parts:
                    if isinstance(part, list):
                        texts[-1][-1] = part
                    else:
                        texts[-1].append([])
    return texts


class TokenReader:
    """Reads samples by shard and index, and caches the tables of the last few shards.

    Args:
        tokens: folder or URL of token shards.
        index: the rows that can be read.
        held_shards: number of shards to cache.
        high_resolution: also read the high-resolution codes, which take most of the memory. Otherwise `high_codes` is
            None.
        lengths: the file with the rows' lengths; see `RowLengths`.
        texts: also read the captions' texts, of which a `Caption` has the length.
    """

    def __init__(
        self,
        tokens: str | Path,
        index: RowIndex,
        held_shards: int,
        high_resolution: bool = True,
        lengths: Path | None = None,
        texts: bool = True,
    ) -> None:
        self._storage, self._index, self._held = open_storage(tokens), index, held_shards
        self._lengths = RowLengths(tokens, index, lengths)
        self._columns = [name for name in READ_COLUMNS if high_resolution or name != "codes_hr"]
        self._cache: OrderedDict[int, tuple[pa.Table, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()
        is_local = isinstance(self._storage, LocalFolder)
        self._without = () if texts else UNUSED_FIELDS
        self._fetcher = None if is_local else ShardFetcher(self._storage, self._columns, self._without)

    def lengths(self, shards: np.ndarray, indices: np.ndarray) -> SampleLengths:
        """The lengths of the `indices`-th selected samples of the `shards`-th shards, int64 [n] each."""
        return self._lengths.take(shards, indices)

    def ahead(self, shards: list[int]) -> None:
        """Starts to fetch shards that will be read soon, unless they are on a local file system."""
        if self._fetcher:
            wanted = [shard for shard in shards if shard not in self._cache and self._index.counts[shard]]
            self._fetcher.ahead(self._index.shard(shard) for shard in wanted)

    def sample_ids(self, shards: np.ndarray, indices: np.ndarray) -> list[str]:
        """The ids of the `indices`-th selected samples of the `shards`-th shards, int64 [n] each."""
        ids = np.empty(len(shards), object)
        for shard in np.unique(shards).tolist():
            chosen = shards == shard
            table, rows = self._held_shard(shard)
            ids[chosen] = table["sample_id"].take(pa.array(rows[indices[chosen]])).to_pylist()
        found: list[str] = ids.tolist()
        return found

    def row(self, shard: int, index: int) -> Row:
        """The `index`-th selected sample of the `shard`-th shard."""
        table, rows = self._held_shard(shard)
        return self.sample(table, int(rows[index]), shard)

    def tables(self, shards: np.ndarray, indices: np.ndarray) -> pa.Table:
        """The rows of the `indices`-th selected samples of the `shards`-th shards, int64 [n] each, sorted by shard. In
        the column `START` is true where the next sample begins: a document has several rows."""
        parts = []
        for shard in np.unique(shards).tolist():
            table, rows = self._held_shard(shard)
            starts = rows[indices[shards == shard]]
            counts = np.ones(len(starts), np.int64)
            if table["document"].null_count < len(table):
                pictures = table["document"].combine_chunks().field("of").fill_null(1).to_numpy()[starts]
                counts = np.clip(pictures, 1, len(table) - starts)
            ends = np.cumsum(counts)
            numbers = np.arange(counts.sum()) + np.repeat(starts - (ends - counts), counts)
            is_start = np.zeros(len(numbers), bool)
            is_start[ends - counts] = True
            parts.append(table.take(pa.array(numbers)).append_column(START, pa.array(is_start)))
        return pa.concat_tables(parts)

    def _held_shard(self, shard: int) -> tuple[pa.Table, np.ndarray]:
        """A shard's table and its selected rows in it, from the cache or newly read."""
        with self._lock:  # other nodes' requests are answered in threads
            if shard not in self._cache:
                try:
                    self._cache[shard] = self._read(shard)
                finally:
                    if self._fetcher:
                        self._fetcher.forget(self._index.shard(shard))
                while len(self._cache) > self._held:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(shard)
            return self._cache[shard]

    def _read(self, shard: int) -> tuple[pa.Table, np.ndarray]:
        name = self._index.shard(shard)
        if self._fetcher:
            whole = self._fetcher.take(name)
        else:
            whole = TokenShard(self._storage, name).read(self._columns, self._without)
        table = whole.select(self._columns)
        rows = self._index.rows(shard)
        if table["document"].null_count == len(table):  # no sample spans several rows
            table, rows = table.take(pa.array(rows)), np.arange(len(rows))
        return table.replace_schema_metadata().combine_chunks(), rows

    def sample(self, table: pa.Table, row: int, shard: int) -> Row:
        """The sample that begins in a row of a table which was read from the `shard`-th shard."""
        values = {name: table[name][row] for name in self._columns}
        high_codes, document = values.get("codes_hr"), values["document"]
        first = Row(
            values["sample_id"].as_py(),
            values["codes"].values.to_numpy(),
            high_codes.values.to_numpy() if high_codes is not None and high_codes.is_valid else None,
            [
                Caption(each["lang"], each["ids"], len(each.get("text", "").encode()))
                for each in values["captions"].as_py()
            ],
        )
        if not document.is_valid:
            return first
        pictures = table.slice(row, document["of"].as_py())
        places = pictures["document"].to_pylist()
        if [(each["id"], each["place"]) for each in places] != [
            (document["id"].as_py(), index) for index in range(document["of"].as_py())
        ]:
            name = f"{self._storage}/{self._index.shard(shard)}"
            raise InputError(f"document {document['id'].as_py()!r} is not whole in {name!r}; tokenize it again")
        parts: list[list[int] | np.ndarray] = []
        for place, picture in zip(places, pictures["codes"], strict=True):
            before, after = place["before"] or [], place["after"] or []
            parts += [part for part in (before, picture.values.to_numpy(), after) if len(part)]
        return Row(first.sample_id, first.codes, first.high_codes, first.captions, parts)
