"""The lengths of a row index's rows, in a file of a few bytes a row. A process reads those of the shards it needs."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.data.row_index import RowIndex
from pipeline.data.sample_lengths import LANGUAGES, OTHER, SampleLengths
from tokenization.files.atomic_writing import write_atomically
from tokenization.files.storage import open_storage
from tokenization.table.token_table import TokenShard

MADE_FROM_KEY = b"mars.made_from"
MISSING = np.iinfo(np.uint32).max
"""Stands for a caption that is not there."""
HELD_JOINS = 3
"""Sets of shards whose lengths are kept as one table: of two windows, and of a step that takes from both."""
HELD_SHARDS = 64
"""Shards whose lengths are kept, some megabytes."""
SCHEMA = pa.schema(
    [
        *((f"ids_{language}", pa.uint32()) for language in LANGUAGES),
        ("first_ids", pa.uint32()),
        ("first_language", pa.uint8()),
        ("codes", pa.uint32()),
        ("high_codes", pa.uint32()),
        ("pictures", pa.uint16()),
        ("document_ids", pa.uint32()),
        ("document_ids_before", pa.uint32()),
    ]
)


class RowLengths:
    """The lengths of the rows of an index.

    Args:
        tokens: folder or URL of the token shards.
        index: the rows.
        file: as `store_row_lengths` wrote it. If there is none, or if it has other rows, each shard's captions are read
            when they are needed.
    """

    def __init__(self, tokens: str | Path, index: RowIndex, file: Path | None = None) -> None:
        self._tokens, self._index = tokens, index
        is_stored = file is not None and _made_from(file) == index.sha256().encode()
        self._reader = pa.ipc.open_file(pa.memory_map(str(file))) if is_stored else None
        self._held: OrderedDict[int, SampleLengths] = OrderedDict()
        self._lock = threading.Lock()
        self._joined = lru_cache(HELD_JOINS)(self._join)

    def take(self, shards: np.ndarray, indices: np.ndarray) -> SampleLengths:
        """The lengths of the `indices`-th selected rows of the `shards`-th shards, int64 [n] each."""
        if not len(shards):
            return _from_batch(_empty())
        counts = np.bincount(shards)
        unlike = np.flatnonzero(counts)
        joined, starts = self._joined(tuple(unlike.tolist()))
        start_of = np.zeros(len(counts), np.int64)
        start_of[unlike] = starts
        return joined.take(start_of[shards] + indices)

    def _join(self, shards: tuple[int, ...]) -> tuple[SampleLengths, np.ndarray]:
        """The lengths of several shards, and where those of each begin. A step reads those of one or two windows."""
        tables = [self._of(shard) for shard in shards]
        return SampleLengths.joined(tables), np.cumsum([0, *(len(table) for table in tables[:-1])])

    def _of(self, shard: int) -> SampleLengths:
        with self._lock:  # steps are planned ahead in another thread
            if shard not in self._held:
                batch = self._reader.get_batch(shard) if self._reader else read_shard(self._tokens, self._index, shard)
                self._held[shard] = _from_batch(batch)
                if len(self._held) > HELD_SHARDS:
                    self._held.popitem(last=False)
            self._held.move_to_end(shard)
            return self._held[shard]


ReadLengths = Callable[[str | Path, RowIndex], Iterable[pa.RecordBatch]]
"""Reads the lengths of an index's rows from the token shards, a batch for each shard, in order."""


def read_lengths(tokens: str | Path, index: RowIndex) -> Iterator[pa.RecordBatch]:
    """Reads one shard after the other; see `ReadLengths`."""
    return (read_shard(tokens, index, shard) for shard in range(index.num_shards))


def store_row_lengths(file: Path, tokens: str | Path, index: RowIndex, read: ReadLengths = read_lengths) -> None:
    """Writes the lengths of the index's rows to `file`, unless it has them already."""
    made_from = index.sha256().encode()
    if _made_from(file) != made_from:
        schema, options = SCHEMA.with_metadata({MADE_FROM_KEY: made_from}), pa.ipc.IpcWriteOptions(compression="zstd")

        def fill(partial: Path) -> None:
            with pa.ipc.new_file(str(partial), schema, options=options) as writer:
                for batch in read(tokens, index):
                    writer.write_batch(batch)

        write_atomically(file, fill)


def _made_from(file: Path) -> bytes | None:
    try:
        with pa.memory_map(str(file)) as source:
            schema = pa.ipc.open_file(source).schema
            return (schema.metadata or {}).get(MADE_FROM_KEY) if schema.equals(SCHEMA) else None
    except (pa.ArrowInvalid, OSError):  # missing or damaged: it can be made again
        return None


def _from_batch(batch: pa.RecordBatch) -> SampleLengths:
    values = np.empty((len(batch), len(SCHEMA)), np.uint32)
    for number, column in enumerate(batch.columns):
        values[:, number] = column.to_numpy()
    return SampleLengths(values.view(np.int32))  # `MISSING` becomes -1


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], SCHEMA)


def read_shard(tokens: str | Path, index: RowIndex, shard: int) -> pa.RecordBatch:
    """Reads the lengths of a shard's selected rows from the token shard."""
    rows = index.rows(shard)
    if not len(rows):
        return _empty()
    file = TokenShard(open_storage(tokens), index.shard(shard))
    table = file.read(["codes_hr", "captions", "document"], without=("text",))
    codes = file.schema().field("codes").type.list_size
    captions, first_ids, first_language = _captions(table["captions"].combine_chunks())
    high = pa.compute.list_value_length(table["codes_hr"]).fill_null(0).combine_chunks().to_numpy()
    pictures, ids, before = _documents(table["document"].combine_chunks(), rows)
    values = [*captions[rows].T, first_ids[rows], first_language[rows], np.full(len(rows), codes), high[rows]]
    arrays = [
        pa.array(value, field.type) for value, field in zip([*values, pictures, ids, before], SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _captions(captions: pa.ListArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids of each row's caption in each language [rows, languages], and ids and language of its first caption."""
    found = np.full((len(captions), len(LANGUAGES)), MISSING, np.int64)
    first_ids, first_language = np.zeros(len(captions), np.int64), np.full(len(captions), OTHER)
    number = pa.compute.list_value_length(captions).fill_null(0).to_numpy()
    rows, every = np.repeat(np.arange(len(captions)), number), captions.flatten()
    ids = pa.compute.list_value_length(every.field("ids")).fill_null(0).to_numpy()
    known = pa.compute.index_in(every.field("lang"), pa.array(LANGUAGES)).fill_null(OTHER).to_numpy()
    last_first = slice(None, None, -1)  # of several assignments the last one stays: that of a row's first caption
    first_ids[rows[last_first]], first_language[rows[last_first]] = ids[last_first], known[last_first]
    for language in range(len(LANGUAGES)):
        of_language = np.flatnonzero(known == language)[last_first]
        found[rows[of_language], language] = ids[of_language]
    return found, first_ids, first_language


def _documents(documents: pa.StructArray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures, text ids, and text ids before the first picture, of the documents that begin at `rows`."""
    zeros = np.zeros(len(rows), np.int64)
    if documents.null_count == len(documents):
        return zeros, zeros, zeros
    text = [
        pa.compute.list_value_length(documents.field(name)).fill_null(0).to_numpy().astype(np.int64)
        for name in ("before", "after")
    ]
    until = np.cumsum([0, *(text[0] + text[1])])
    is_document = documents.is_valid().to_numpy(zero_copy_only=False)[rows]
    pictures = np.where(is_document, documents.field("of").fill_null(0).to_numpy()[rows], 0).astype(np.int64)
    ends = np.minimum(rows + pictures, len(documents))
    return pictures, np.where(is_document, until[ends] - until[rows], 0), np.where(is_document, text[0][rows], 0)
