"""Stores a stage's row index with the run. For 200M rows it takes minutes to build and a second to read."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.row_index import RowIndex, RowSelection, build_row_index
from tokenization.files.atomic_writing import write_atomically
from tokenization.files.storage import open_storage

MADE_FROM_KEY, TOO_LONG_KEY, NOT_NUMBERS_KEY = b"mars.made_from", b"mars.too_long", b"mars.not_numbers"


@dataclass(frozen=True)
class CachedRowIndex:
    """A row index, and the file that keeps it with the run.

    Attributes:
        file: the file.
        index: the index.
        made_from: hash of what it was made from; empty if it was read from the file.
    """

    file: Path
    index: RowIndex
    made_from: bytes

    def store(self) -> None:
        """Writes the index to its file, unless it is there."""
        if not self.made_from:
            return
        index = self.index
        chosen = pa.array([bits.tobytes() for bits in index.chosen], pa.binary())
        columns = {"shard": index.shards, "content": list(index.contents), "rows": index.counts, "chosen": chosen}
        metadata = {MADE_FROM_KEY: self.made_from, TOO_LONG_KEY: str(index.num_too_long).encode()}
        metadata[NOT_NUMBERS_KEY] = json.dumps(index.not_numbers).encode()
        table = pa.table(columns).replace_schema_metadata(metadata)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, lambda partial: pq.write_table(table, partial))


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
    return CachedRowIndex(file, build_row_index(selection), made_from)


def _version(path: Path) -> str:
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}"


def _hash(*parts: list[Any]) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest().encode()


def _kept(file: Path, made_from: tuple[bytes, ...]) -> RowIndex | None:
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError):  # missing or damaged: it can be rebuilt
        return None
    metadata = table.schema.metadata or {}
    if metadata.get(MADE_FROM_KEY) not in made_from:
        return None
    chosen = [np.frombuffer(bits, np.uint8) for bits in table["chosen"].to_pylist()]
    counts, contents = table["rows"].to_numpy(), tuple(table["content"].to_pylist())
    not_numbers = json.loads(metadata.get(NOT_NUMBERS_KEY, b"{}"))
    return RowIndex(table["shard"].to_pylist(), chosen, counts, int(metadata[TOO_LONG_KEY]), contents, not_numbers)
