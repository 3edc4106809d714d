"""Results of generation that are kept while they come, so that the same command after a kill makes the missing ones."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenization.files.atomic_writing import write_atomically

ROWS = 64
"""Results of one file."""
NUMBER = "number"
"""Column with the place of a result among the rows that were asked for."""
KEPT = (NUMBER, "drawn_codes", "caption")


class KeptResults:
    """Files of results in a folder of their own.

    Args:
        parent: the folder of all requests.
        key: stands for everything that decides the results.
    """

    def __init__(self, parent: Path, key: str) -> None:
        self._folder = parent / key

    def read(self) -> dict[int, dict[str, Any]]:
        """The results so far, by number."""
        files = sorted(self._folder.glob("*.parquet"))
        return {row[NUMBER]: row for file in files for row in pq.read_table(file).to_pylist()}

    def keeping(self, results: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Passes results on, and keeps them."""
        waiting: list[dict[str, Any]] = []
        for result in results:
            waiting.append({name: result[name] for name in KEPT})
            if len(waiting) == ROWS:
                self._write(waiting)
                waiting = []
            yield result
        self._write(waiting)

    def _write(self, results: Sequence[dict[str, Any]]) -> None:
        if results:
            table = pa.Table.from_pylist(list(results))
            write_atomically(self._folder / f"{uuid.uuid4().hex}.parquet", lambda path: pq.write_table(table, path))
