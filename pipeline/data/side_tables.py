"""Side tables: scores and other columns that were computed after tokenization, keyed by `sample_id`."""

from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from pipeline.errors import InputError

KEY = "sample_id"


class SideTable:
    """A table of additional columns to filter by.

    Args:
        path: a parquet file, which is held in memory; or a folder of such files with the token shards' relative paths.

    Raises:
        InputError: there is nothing at `path`.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser()
        if not self._path.exists():
            raise InputError(f"side table {path!r} does not exist; correct the stage's side_tables")
        self._matched = 0

    def join(self, frame: pd.DataFrame, shard: str) -> pd.DataFrame:
        """Adds this table's columns to the rows of one token shard; a row that the table lacks gets empty values.

        Raises:
            InputError: the file is no readable parquet, `sample_id` is missing or repeated, or the rows already have
                one of the columns.
        """
        columns = self._read(self._path / shard) if self._path.is_dir() else self._whole
        if double := [name for name in columns if name in frame]:
            raise InputError(f"side table {str(self._path)!r} repeats the column {double[0]!r}; rename it")
        self._matched += int(frame[KEY].isin(columns.index).sum())
        return frame.join(columns, on=KEY)

    def check_matched(self) -> None:
        """Raises InputError if no row of the token table was found: then the keys belong to another corpus."""
        if not self._matched:
            raise InputError(
                f"side table {str(self._path)!r} has no sample_id of these tokens; its keys must be those of the token "
                "table (input shard and key, as in 00000.tar/000000012)"
            )

    @cached_property
    def _whole(self) -> pd.DataFrame:
        return self._read(self._path)

    def _read(self, path: Path) -> pd.DataFrame:
        if not path.exists():
            raise InputError(f"side table {str(self._path)!r} has no {path.name!r} for the token shard of this name")
        try:
            table: pd.DataFrame = pq.read_table(path).to_pandas()
        except (OSError, ValueError) as error:
            raise InputError(f"side table {str(path)!r} is no readable parquet: {error}") from error
        if KEY not in table:
            raise InputError(f"side table {str(path)!r} has no column {KEY!r}; it has {', '.join(map(str, table))}")
        if (repeated := table[KEY].duplicated()).any():
            raise InputError(f"side table {str(path)!r} has {table[KEY][repeated].iloc[0]!r} more than once")
        return table.set_index(KEY)
