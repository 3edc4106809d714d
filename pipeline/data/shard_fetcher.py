"""Fetches token shards from S3 to this machine before a step needs them."""

import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.feather

from tokenization.files.storage import Storage
from tokenization.table.token_table import TokenShard

THREADS = 4


class ShardFetcher:
    """Fetches some columns of shards in background threads.

    The columns are kept in unlinked files in the folder for temporary files, and mapped into memory. The system removes
    them when nothing refers to them any more, even if the process is killed.

    Args:
        storage: the token folder.
        columns: columns of the token table.
    """

    def __init__(self, storage: Storage, columns: list[str]) -> None:
        self._storage, self._columns = storage, columns
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fetcher")
        self._coming: dict[str, Future[pa.Table]] = {}

    def ahead(self, names: Iterable[str]) -> None:
        """Starts to fetch these shards, unless they are already being fetched."""
        for name in names:
            if name not in self._coming:
                self._coming[name] = self._threads.submit(self._fetch, name)

    def take(self, name: str) -> pa.Table:
        """Waits for the shard's columns and returns them.

        Raises:
            InputError: the shard cannot be read.
        """
        self.ahead([name])
        return self._coming.pop(name).result()

    def _fetch(self, name: str) -> pa.Table:
        table = TokenShard(self._storage, name).read(self._columns)
        handle, path = tempfile.mkstemp(prefix="mars-shard-")
        os.close(handle)
        try:
            pa.feather.write_feather(table, path, compression="uncompressed")
            return pa.feather.read_table(path, memory_map=True)
        finally:
            os.unlink(path)
