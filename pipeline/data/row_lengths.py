"""The lengths of a row index's rows, in a file that is mapped and not read: some bytes a row."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.data.row_index import RowIndex
from pipeline.data.sample_lengths import LANGUAGES, OTHER, SampleLengths
from tokenization.files.atomic_writing import write_atomically
from tokenization.files.storage import Storage, open_storage
from tokenization.table.token_table import TokenShard

MADE_FROM_KEY = b"mars.made_from"
MISSING = np.iinfo(np.uint32).max
"""Stands for a caption that is not there."""
HELD_SHARDS = 64
"""Shards whose lengths are kept as int64, some megabytes."""
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
        self._storage, self._index = open_storage(tokens), index
        is_stored = file is not None and _made_from(file) == index.sha256().encode()
        self._reader = pa.ipc.open_file(pa.memory_map(str(file))) if is_stored else None
        self._held: OrderedDict[int, SampleLengths] = OrderedDict()

    def take(self, shards: np.ndarray, indices: np.ndarray) -> SampleLengths:
        """The lengths of the `indices`-th selected rows of the `shards`-th shards, int64 [n] each."""
        unlike, which = np.unique(shards, return_inverse=True)
        if not len(unlike):
            return _from_batch(_empty())
        tables = [self._of(int(shard)) for shard in unlike]
        starts = np.cumsum([0, *(len(table) for table in tables[:-1])])
        return SampleLengths.joined(tables).take(starts[which] + indices)

    def _of(self, shard: int) -> SampleLengths:
        if shard not in self._held:
            batch = self._reader.get_batch(shard) if self._reader else _read(self._storage, self._index, shard)
            self._held[shard] = _from_batch(batch)
            if len(self._held) > HELD_SHARDS:
                self._held.popitem(last=False)
        self._held.move_to_end(shard)
        return self._held[shard]


def store_row_lengths(file: Path, tokens: str | Path, index: RowIndex) -> None:
    """Writes the lengths of the index's rows to `file`, unless it has them already."""
    made_from = index.sha256().encode()
    if _made_from(file) != made_from:
        storage, schema = open_storage(tokens), SCHEMA.with_metadata({MADE_FROM_KEY: made_from})

        def fill(partial: Path) -> None:
            with pa.ipc.new_file(str(partial), schema) as writer:
                for shard in range(len(index.shards)):
                    writer.write_batch(_read(storage, index, shard))

        write_atomically(file, fill)


def _made_from(file: Path) -> bytes | None:
    try:
        with pa.memory_map(str(file)) as source:
            schema = pa.ipc.open_file(source).schema
            return (schema.metadata or {}).get(MADE_FROM_KEY) if schema.equals(SCHEMA) else None
    except (pa.ArrowInvalid, OSError):  # missing or damaged: it can be made again
        return None


def _from_batch(batch: pa.RecordBatch) -> SampleLengths:
    columns = {name: batch.column(name).to_numpy().astype(np.int64) for name in batch.schema.names}
    captions = np.column_stack([columns.pop(f"ids_{language}") for language in LANGUAGES])
    return SampleLengths(np.where(captions == MISSING, -1, captions), *columns.values())


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], SCHEMA)


def _read(storage: Storage, index: RowIndex, shard: int) -> pa.RecordBatch:
    """Reads the lengths of a shard's selected rows."""
    rows = index.rows(shard)
    if not len(rows):
        return _empty()
    file = TokenShard(storage, index.shards[shard])
    table = file.read(file.leaves("codes_hr", "captions", "document", without=("text",)))
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
