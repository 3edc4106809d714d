"""The order of samples: a function of (seed, stage, epoch, position). It is seekable and uses bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from pipeline.config.shares import PARTS, no_room, parts_of


@dataclass(frozen=True)
class SampleOrder:
    """Shuffles the shards and cuts them into windows, then shuffles the rows inside each window.

    Reading in this order uses `window_shards` shards at a time, and each shard once per epoch.

    Attributes:
        rows_by_shard: selected rows of each shard, int64 [shards].
        seed: the run's seed.
        stage_number: two stages of a run have different orders.
        source_number: two sources of a stage have different orders.
        window_shards: shards whose rows are mixed.
    """

    rows_by_shard: np.ndarray
    seed: int
    stage_number: int
    window_shards: int
    source_number: int = 0
    _cache: dict[str, Callable] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_samples(self) -> int:
        """Number of samples of an epoch."""
        return int(self.rows_by_shard.sum())

    def __post_init__(self) -> None:
        self._cache.update(epoch=lru_cache(2)(self._shuffle_epoch), window=lru_cache(4)(self._shuffle_window))

    def at(self, position: int) -> tuple[int, int]:
        """Returns the shard, and the index among its selected rows, of the sample at `position`.

        `position` counts over all epochs.
        """
        epoch, offset = divmod(position, self.num_samples)
        _, ends = self._cache["epoch"](epoch)
        window = int(np.searchsorted(ends, offset, side="right"))
        start = int(ends[window - 1]) if window else 0
        shards, rows = self._cache["window"](epoch, window)
        return int(shards[offset - start]), int(rows[offset - start])

    def span(self, start: int, stop: int) -> np.ndarray:
        """Shard, and index among its selected rows, of the samples at positions `start` to `stop`, int64 [n, 2]."""
        parts = [np.zeros((0, 2), np.int64)]
        while start < stop:
            epoch, offset = divmod(start, self.num_samples)
            _, ends = self._cache["epoch"](epoch)
            window = int(np.searchsorted(ends, offset, side="right"))
            first = int(ends[window - 1]) if window else 0
            until = min(int(ends[window]), offset + stop - start)
            shards, rows = self._cache["window"](epoch, window)
            parts.append(
                np.column_stack([shards[offset - first : until - first], rows[offset - first : until - first]])
            )
            start += until - offset
        return np.concatenate(parts)

    def near(self, position: int) -> list[int]:
        """The shards of the window that contains `position`, and those of the next window."""
        epoch, offset = divmod(position, self.num_samples)
        shards, ends = self._cache["epoch"](epoch)
        window = int(np.searchsorted(ends, offset, side="right"))
        here = shards[window * self.window_shards : (window + 2) * self.window_shards]
        if window + 1 == len(ends):
            here = np.append(here, self._cache["epoch"](epoch + 1)[0][: self.window_shards])
        return list(dict.fromkeys(here.tolist()))

    def _shuffle_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's shards in order, and the offset at which each window ends."""
        shards = generator(self.seed, self.stage_number, self.source_number, epoch).permutation(len(self.rows_by_shard))
        ends = np.cumsum(self.rows_by_shard[shards])[self.window_shards - 1 :: self.window_shards]
        if len(shards) % self.window_shards:
            ends = np.append(ends, self.num_samples)
        return shards, ends

    def _shuffle_window(self, epoch: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        shards = self._cache["epoch"](epoch)[0][window * self.window_shards : (window + 1) * self.window_shards]
        counts = self.rows_by_shard[shards]
        all_shards = np.repeat(shards, counts)
        all_rows = np.concatenate([np.arange(count) for count in counts])
        key = (self.seed, self.stage_number, self.source_number, epoch, window + 1)
        order = generator(*key).permutation(len(all_rows))
        return all_shards[order], all_rows[order]


@dataclass(frozen=True)
class MixedOrder:
    """The orders of several sources. Each source contributes its share of every step's samples.

    Before step s, source i has contributed floor(share_i * s * samples_per_step) samples, and the source with the
    largest share all remaining ones. So any step can be computed without the steps before it, and each source has its
    own epochs.

    Attributes:
        orders: the orders of the sources.
        weights: the weights of the sources, relative to each other.
        samples_per_step: samples per step over all sources.
    """

    orders: list[SampleOrder]
    weights: list[float]
    samples_per_step: int

    def __post_init__(self) -> None:
        if problem := no_room(self.weights, self.samples_per_step):
            raise ValueError(problem)

    def step(self, step: int) -> np.ndarray:
        """Source, shard, and index among the shard's selected rows, of each sample of the step, int64 [n, 3]. Those of
        one source follow each other."""
        before, after = self.taken(step), self.taken(step + 1)
        spans = [order.span(*each) for order, *each in zip(self.orders, before, after, strict=True)]
        sources = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
        return np.column_stack([sources, np.concatenate(spans)])

    def near(self, step: int) -> list[list[int]]:
        """For each source, the shards that the step and the steps after it read from."""
        before, after = self.taken(step), self.taken(step + 1)
        return [order.near(max(before[source], after[source] - 1)) for source, order in enumerate(self.orders)]

    def taken(self, step: int) -> list[int]:
        """Number of samples that each source has contributed before `step`."""
        parts = parts_of(self.weights)
        taken = [part * step * self.samples_per_step // PARTS for part in parts]
        largest = parts.index(max(parts))
        taken[largest] += step * self.samples_per_step - sum(taken)
        return taken


def generator(*key: int) -> np.random.Generator:
    """A random generator that depends on `key` alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
