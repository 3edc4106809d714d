"""Fetches token shards from a bucket to this machine before a step needs them."""

import os
import tempfile
import threading
from collections.abc import Iterable
from multiprocessing.pool import AsyncResult, ThreadPool

import pyarrow as pa
import pyarrow.feather

from tokenization.files.storage import Storage
from tokenization.table.token_table import TokenShard

THREADS = 4


class ShardFetcher:
    """Fetches some columns of shards in background threads. Its methods may be called in several threads.

    The columns are kept in unlinked files in the folder for temporary files, and mapped into memory. The system removes
    them when nothing refers to them any more, even if the process is killed.

    Args:
        storage: the token folder.
        columns, without: see `TokenShard.read`.
    """

    def __init__(self, storage: Storage, columns: list[str], without: tuple[str, ...] = ()) -> None:
        self._storage, self._columns, self._without = storage, columns, without
        # No process waits for the threads of such a pool at its end: one that reads may wait for `outage_s`.
        self._threads = ThreadPool(THREADS)
        self._coming: dict[str, AsyncResult[pa.Table]] = {}
        self._lock = threading.Lock()

    def ahead(self, names: Iterable[str]) -> None:
        """Starts to fetch these shards, unless they are already being fetched."""
        with self._lock:
            for name in names:
                if name not in self._coming:
                    self._coming[name] = self._threads.apply_async(self._fetch, (name,))

    def take(self, name: str) -> pa.Table:
        """Waits for the shard's columns and returns them. `ahead` does not fetch them again until `forget`.

        Raises:
            InputError: the shard cannot be read.
        """
        self.ahead([name])
        return self._coming[name].get()

    def forget(self, name: str) -> None:
        """The shard was taken, and may be fetched again."""
        with self._lock:
            self._coming.pop(name, None)

    def _fetch(self, name: str) -> pa.Table:
        table = TokenShard(self._storage, name).read(self._columns, self._without)
        handle, path = tempfile.mkstemp(prefix="mars-shard-")
        os.close(handle)
        try:
            pa.feather.write_feather(table, path, compression="uncompressed")
            return pa.feather.read_table(path, memory_map=True)
        finally:
            os.unlink(path)
