"""The order of samples: a function of (seed, stage, epoch, position), seekable, in bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class SampleOrder:
    """Shards are shuffled and cut into windows; rows are shuffled inside a window.

    Reading in this order touches `window_shards` shards at a time, each of them once an epoch.

    Attributes:
        rows_by_shard: selected rows of each shard, int64 [shards].
        seed: the run's.
        stage_number: two stages of a run have different orders.
        window_shards: shards whose rows are mixed.
    """

    rows_by_shard: np.ndarray
    seed: int
    stage_number: int
    window_shards: int
    _cache: dict[str, Callable] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return int(self.rows_by_shard.sum())

    def __post_init__(self) -> None:
        self._cache.update(epoch=lru_cache(2)(self._shuffle_epoch), window=lru_cache(4)(self._shuffle_window))

    def at(self, position: int) -> tuple[int, int]:
        """Shard and place among its selected rows of the sample at `position`, counted over all epochs."""
        epoch, offset = divmod(position, self.num_samples)
        _, ends = self._cache["epoch"](epoch)
        window = int(np.searchsorted(ends, offset, side="right"))
        start = int(ends[window - 1]) if window else 0
        shards, rows = self._cache["window"](epoch, window)
        return int(shards[offset - start]), int(rows[offset - start])

    def _shuffle_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's shards in order, and the offset at which each window of them ends."""
        shards = generator(self.seed, self.stage_number, epoch).permutation(len(self.rows_by_shard))
        ends = np.cumsum(self.rows_by_shard[shards])[self.window_shards - 1 :: self.window_shards]
        if len(shards) % self.window_shards:
            ends = np.append(ends, self.num_samples)
        return shards, ends

    def _shuffle_window(self, epoch: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        shards = self._cache["epoch"](epoch)[0][window * self.window_shards : (window + 1) * self.window_shards]
        counts = self.rows_by_shard[shards]
        all_shards = np.repeat(shards, counts)
        all_rows = np.concatenate([np.arange(count) for count in counts])
        order = generator(self.seed, self.stage_number, epoch, window + 1).permutation(len(all_rows))
        return all_shards[order], all_rows[order]


def generator(*key: int) -> np.random.Generator:
    """A random generator that depends on `key` alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
