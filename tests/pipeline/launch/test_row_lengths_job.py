"""Ray Data reads the lengths of a large table, in the order of its shards."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray.data

from pipeline.data.row_index import RowIndex
from pipeline.data.row_lengths import read_lengths
from pipeline.launch.row_lengths_job import read_lengths_on_cluster
from tests.support.tokens import write_documents, write_tokens


class LocalData:
    """Stands for Ray Data: runs the function on each row, after it was pickled."""

    def __init__(self, rows: Iterable[dict]) -> None:
        self.rows = list(rows)
        self.context = ray.data.DataContext()

    def map(self, function: object) -> "LocalData":
        there = ray.cloudpickle.loads(ray.cloudpickle.dumps(function))
        return LocalData(there(row) for row in self.rows)

    def iter_rows(self) -> list[dict]:
        return self.rows


def test_lengths_that_a_job_reads_are_those_that_are_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokens(tmp_path, shards=7)
    write_documents(tmp_path / "more")
    names = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.parquet"))]
    built = RowIndex.of(names, [np.arange(0, 6, 1 + number % 2) for number in range(len(names))])
    built.write(tmp_path / "rows.arrow", b"")
    index = RowIndex.mapped(tmp_path / "rows.arrow")
    monkeypatch.setattr(ray.data, "range", lambda count: LocalData({"id": number} for number in range(count)))
    here, there = (pa.Table.from_batches(read(tmp_path, index)) for read in (read_lengths, of_job))
    assert here.equals(there) and len(here) == built.counts.sum()


def of_job(tokens: Path, index: RowIndex) -> Iterable[pa.RecordBatch]:
    return read_lengths_on_cluster(tokens, index, from_shards=2)
