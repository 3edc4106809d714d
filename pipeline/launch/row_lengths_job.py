"""Reads the lengths of a large token table with Ray Data, on all CPUs of the cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data

from pipeline.data.row_index import RowIndex
from pipeline.data.row_lengths import SCHEMA, read_lengths, read_shard
from pipeline.runtime.terminal import say

FROM_SHARDS = 256
"""Number of shards from which a Ray Data job reads the lengths. Fewer are read sooner than its workers start."""


def read_lengths_on_cluster(
    tokens: str | Path, index: RowIndex, from_shards: int = FROM_SHARDS
) -> Iterator[pa.RecordBatch]:
    """Reads the lengths of an index's rows; see `ReadLengths`."""
    if index.num_shards < from_shards:
        yield from read_lengths(tokens, index)
        return
    say(f"the lengths of {int(index.counts.sum()):,} rows are read once, from {index.num_shards:,} shards of {tokens}")

    def read(row: dict[str, Any]) -> dict[str, Any]:
        return {"lengths": read_shard(tokens, index, int(row["id"])).serialize().to_pybytes()}

    shards = ray.data.range(index.num_shards)
    shards.context.execution_options.preserve_order = True
    for row in shards.map(read).iter_rows():
        yield pa.ipc.read_record_batch(pa.py_buffer(row["lengths"]), SCHEMA)
