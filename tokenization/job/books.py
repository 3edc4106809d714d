"""The books of a job: which shards are done or failed, and the sums of what became of their rows."""

import time
from multiprocessing.pool import ThreadPool

from tokenization.errors import InputError
from tokenization.files.storage import Storage
from tokenization.table.shard_statistics import (
    REJECTS_FOLDER,
    STATISTICS_FOLDER,
    ShardStatistics,
    read_shard_statistics,
    token_name,
)
from tokenization.table.sums import Sums

READS_AT_ONCE = 32
STORE_EVERY_S = 60.0
"""Seconds between two writes of the sums. A job that goes on reads the statistics of the shards that were done since
then one by one, as it does with those of earlier code."""


class Books:
    """Opens the books of a token folder.

    Args:
        storage: the token folder.
        shards: all shards of the corpus.
        seed: of the job; see `captions_of`.
        codebook_size: number of codes.

    Attributes:
        done: shards that are done.
        failed: messages of those that cannot be read, by shard.
        sums: of those that are done.

    Raises:
        InputError: a shard that is done chose its captions among several with another seed.
    """

    def __init__(self, storage: Storage, shards: list[str], seed: int, codebook_size: int) -> None:
        self._storage, self._seed, self._due = storage, seed, time.monotonic() + STORE_EVERY_S
        self.failed: dict[str, str] = {}
        self.done = with_tokens(storage, shards)
        self.sums = Sums(codebook_size)
        self.sums.add_stored(storage)
        missing = self.sums.missing(self.done)
        if missing is None:  # a token shard was removed, or its input shard
            self.sums, missing = Sums(codebook_size), list(self.done)
        self._check_seed(self.sums.caption_seed, "a shard")
        self._take(missing)

    @property
    def num_ended(self) -> int:
        """The number of shards that are done or failed."""
        return len(self.done) + len(self.failed)

    def pending(self, shards: list[str]) -> list[str]:
        """Those of these shards that have not ended."""
        return [shard for shard in shards if shard not in self.done and shard not in self.failed]

    def look_again(self, shards: list[str]) -> None:
        """Finds those of these shards that are done, as when a writer died before it could tell that."""
        self._take([shard for shard in with_tokens(self._storage, shards) if shard not in self.done])

    def _take(self, shards: list[str]) -> None:
        """Adds the statistics of shards that have tokens. One without statistics is not done."""
        with ThreadPool(READS_AT_ONCE) as pool:  # Ctrl-C does not wait for its threads, which may wait for a service
            read = pool.imap_unordered(lambda shard: (shard, read_shard_statistics(self._storage, shard)), shards)
            for shard, one in read:
                if one is None:
                    self.done.discard(shard)
                    continue
                self._check_seed(one.caption_seed, f"shard {shard!r}")
                self.done.add(shard)
                self.sums.add(shard, one)

    def add(self, shard: str, ended: ShardStatistics | str) -> None:
        """Records the end of a shard, and stores the sums from time to time."""
        if isinstance(ended, str):
            self.failed[shard] = ended
            return
        self.done.add(shard)
        self.sums.add(shard, ended)
        if time.monotonic() >= self._due:
            self.store()

    def store(self) -> None:
        """Stores the sums."""
        self.sums.store(self._storage)
        self._due = time.monotonic() + STORE_EVERY_S

    def _check_seed(self, caption_seed: int | None, which: str) -> None:
        if caption_seed not in (None, self._seed):
            raise InputError(
                f"{which} in {str(self._storage)!r} chose its captions among several with seed {caption_seed}, "
                f"not {self._seed}; set seed={caption_seed}, or choose another --output"
            )


def with_tokens(storage: Storage, shards: list[str]) -> set[str]:
    """The shards that have a token shard, which is written last."""
    own = tuple(f"{folder}/" for folder in (STATISTICS_FOLDER, REJECTS_FOLDER))
    without = () if any(shard.startswith(own) for shard in shards) else own
    there = set(storage.listing(without).names)
    return {shard for shard in shards if token_name(shard) in there}
