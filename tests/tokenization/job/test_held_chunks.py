"""A shard of any size is written in bounded memory, with the rows that a small one has."""

import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.tokens import FINGERPRINT
from tokenization.job import held_chunks
from tokenization.job.chunk import ChunkBooks, EncodedChunk
from tokenization.job.writer import Writer
from tokenization.table import token_writing
from tokenization.table.shard_statistics import Notes, ShardStatistics
from tokenization.table.token_writing import pack_rows

CHUNKS, ROWS = 12, 4
VALUES: dict[str, list[Any]] = {
    "number": [*range(ROWS), *[0.5] * ROWS],
    "huge": [2**60 + 1] * ROWS + [0.5] * ROWS,
    "mixed": [*range(ROWS), *["text"] * ROWS],
    "text": ["a", None] * ROWS,
    "late": [None] * ROWS + [7] * ROWS,
    "never": [None] * 2 * ROWS,
    "nested": [[1]] * ROWS + [None] * ROWS,
}
"""Values of the first chunk's rows, and of all others."""


def chunk(index: int, last: int = CHUNKS - 1, num_codes: int = FINGERPRINT.num_codes) -> EncodedChunk:
    with_values = num_codes == FINGERPRINT.num_codes
    place = ROWS * min(index, 1)
    rows = [
        {"sample_id": f"a.tar/{index}{row}", "captions": [], "width": row}
        | ({name: values[place + row] for name, values in VALUES.items()} if with_values else {})
        for row in range(ROWS)
    ]
    rejects = [{"shard": "a.tar", "key": f"bad{index}", "reason": "bad picture", "message": "x"}]
    codes = np.random.default_rng(index).integers(0, 32, (ROWS, num_codes)).astype(np.uint16)
    books = pickle.dumps(ChunkBooks(pack_rows(rows), rejects, Notes()))
    return EncodedChunk("a.tar", index, codes, None, [], index == last, "", books, 0.0)


def written(folder: Path, order: list[int]) -> tuple[pa.Table, ShardStatistics, str]:
    writer = Writer(str(folder), FINGERPRINT)
    writer.add([chunk(index) for index in order])
    ((_, ended),) = writer.news().ended
    assert isinstance(ended, ShardStatistics)
    return pq.read_table(folder / "a.parquet"), ended, (folder / "rejects/a.jsonl").read_text()


def test_a_large_shard_has_the_rows_that_it_would_have_as_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, statistics, rejects = written(tmp_path / "small", list(range(CHUNKS)))
    monkeypatch.setattr(held_chunks, "HELD_BYTES", 1)
    monkeypatch.setattr(token_writing, "GROUP_ROWS", ROWS)
    parts, of_parts, rejects_of_parts = written(tmp_path / "large", list(reversed(range(CHUNKS))))
    assert parts.equals(whole) and parts.schema.equals(whole.schema, check_metadata=True)
    assert whole.schema.metadata[b"mars.content"] and (of_parts, rejects_of_parts) == (statistics, rejects)
    assert pq.ParquetFile(tmp_path / "large/a.parquet").num_row_groups == CHUNKS
    types = {name: str(whole.schema.field(name).type) for name in VALUES}
    assert types == dict.fromkeys(VALUES, "string") | {"number": "double", "late": "int64", "never": "null"}


@pytest.mark.slow
def test_the_memory_of_a_writer_does_not_grow_with_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer may hold one chunk, and makes row groups of two."""
    num_codes, count, chunk_bytes = 80_000, 50, ROWS * 80_000 * 2
    monkeypatch.setattr(held_chunks, "HELD_BYTES", chunk_bytes)
    monkeypatch.setattr(token_writing, "GROUP_ROWS", 2 * ROWS)
    writer = Writer(str(tmp_path), replace(FINGERPRINT, num_codes=num_codes))
    tracemalloc.start()
    for index in range(count):
        writer.add([chunk(index, count - 1, num_codes)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(writer.news().ended) == 1 and peak < 10 * chunk_bytes < count * chunk_bytes
