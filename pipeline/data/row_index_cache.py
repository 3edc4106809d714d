"""Stores a stage's row index with the run. For 200M rows it takes minutes to build, and no time to map."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.row_index import COLUMNS, MADE_FROM_KEY, NOT_NUMBERS_KEY, TOO_LONG_KEY, RowIndex
from pipeline.data.row_selection import RowSelection, build_row_index
from tokenization.files.atomic_writing import write_atomically
from tokenization.files.storage import open_storage


@dataclass(frozen=True)
class CachedRowIndex:
    """A row index, and the file that keeps it with the run.

    Attributes:
        file: the file.
        index: the index.
        made_from: hash of what it was made from; empty if it was mapped from the file.
    """

    file: Path
    index: RowIndex
    made_from: bytes

    def store(self) -> RowIndex:
        """Writes the index to its file, unless it is there. Returns the index that is mapped from the file."""
        if not self.made_from:
            return self.index
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, lambda partial: self.index.write(partial, self.made_from))
        return RowIndex.mapped(self.file)


def cached_row_index(file: Path, selection: RowSelection) -> CachedRowIndex:
    """Reads the index from `file` if it was made from the same shards and settings, or builds it. Nothing is written.

    They count as the same if the selection, and the path, size and modification time of all token shards and side
    tables, are unchanged. The paths are those in their folders, which may have moved.

    Raises:
        InputError: see `build_row_index`.
    """
    versions = open_storage(selection.tokens).versions()
    files = [f"{name} {version}" for name, version in sorted(versions.items())]
    shards = [f"{name} {version}" for name, version in sorted(versions.items()) if name.endswith(".parquet")]
    tables = [Path(side).expanduser() for side in selection.side_tables]
    sides = [(table, path) for table in tables for path in [table, *sorted(table.rglob("*.parquet"))] if path.is_file()]
    asked = [selection.where, selection.held_out, selection.max_document_ids]
    made_from = _hash(asked, shards, [f"{path.relative_to(table)} {_version(path)}" for table, path in sides])
    # Earlier code hashed absolute paths and all files, among them the manifest, which each tokenization writes anew.
    earlier = _hash([str(selection.tokens), *asked], files, [f"{path} {_version(path)}" for _, path in sides])
    if kept := _kept(file, (made_from, earlier)):
        return CachedRowIndex(file, kept, b"")
    if kept := _kept_as_parquet(file.with_suffix(".parquet"), (made_from, earlier)):
        return CachedRowIndex(file, kept, made_from)
    return CachedRowIndex(file, build_row_index(selection), made_from)


def _version(path: Path) -> str:
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}"


def _hash(*parts: list[Any]) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest().encode()


def _kept(file: Path, made_from: tuple[bytes, ...]) -> RowIndex | None:
    try:
        metadata = pa.ipc.open_file(pa.memory_map(str(file))).schema.metadata or {}
        return RowIndex.mapped(file) if metadata.get(MADE_FROM_KEY) in made_from else None
    except (pa.ArrowInvalid, OSError):  # missing or damaged: it can be made again
        return None


def _kept_as_parquet(file: Path, made_from: tuple[bytes, ...]) -> RowIndex | None:
    """Earlier code kept the index in a parquet file."""
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError):
        return None
    metadata = table.schema.metadata or {}
    if metadata.get(MADE_FROM_KEY) not in made_from:
        return None
    columns = [table[column.name].cast(column.type).combine_chunks() for column in COLUMNS]
    batch = pa.RecordBatch.from_arrays(columns, schema=COLUMNS)
    return RowIndex(batch, int(metadata[TOO_LONG_KEY]), json.loads(metadata.get(NOT_NUMBERS_KEY, b"{}")))
