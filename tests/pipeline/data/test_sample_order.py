"""Every sample exactly once an epoch, whatever the number of workers and wherever the loader starts."""

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.common.recipes import load_recipe
from pipeline.config.shares import PARTS, no_room
from pipeline.data.packing import pack_rows
from pipeline.data.row_index import RowIndex
from pipeline.data.sample_order import MixedOrder, SampleOrder
from pipeline.data.token_reader import TokenReader
from tokenization.table.token_table import Fingerprint
from tokenization.table.token_writing import write_token_shard

counts = st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(lambda rows: sum(rows) > 0)


@given(counts, st.integers(0, 5), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_row_exactly_once(rows: list[int], seed: int, window: int, epoch: int) -> None:
    order = SampleOrder(np.asarray(rows), seed, 1, window)
    start = epoch * order.num_samples
    seen = sorted(order.at(start + offset) for offset in range(order.num_samples))
    assert seen == [(shard, row) for shard, count in enumerate(rows) for row in range(count)]


def test_seeking_gives_what_reading_through_gives() -> None:
    rows = np.asarray([7, 3, 9, 4, 8])
    order = SampleOrder(rows, 3, 1, 2)
    through = [order.at(position) for position in range(100)]
    assert [SampleOrder(rows, 3, 1, 2).at(position) for position in (99, 0, 42)] == [
        through[99],
        through[0],
        through[42],
    ]


def test_stages_seeds_and_epochs_have_orders_of_their_own() -> None:
    rows = np.asarray([30, 30])
    orders = [SampleOrder(rows, 0, 1, 2), SampleOrder(rows, 0, 2, 2), SampleOrder(rows, 1, 1, 2)]
    lists = [[order.at(position) for position in range(60)] for order in orders]
    lists.append([orders[0].at(60 + position) for position in range(60)])
    assert len({tuple(each) for each in lists}) == 4


def test_a_window_keeps_to_its_shards() -> None:
    """Bounded memory: between two windows' borders only `window_shards` shards are touched."""
    order = SampleOrder(np.full(6, 10), 0, 1, 2)
    for window in range(3):
        assert len({order.at(window * 20 + offset)[0] for offset in range(20)}) == 2


@pytest.mark.slow
def test_an_index_of_two_hundred_million_rows_seeks_at_once_and_in_little_memory() -> None:
    """With the selection of rows itself, three of four of them, as every worker holds it."""
    tracemalloc.start()
    shards = [f"{number // 1000:03d}/{number:05d}.parquet" for number in range(20_000)]
    rows = np.flatnonzero(np.arange(13_333) % 4)
    index = RowIndex.of(shards, (rows for _ in shards))
    assert index.counts.sum() == 199_980_000 and (index.rows(7) == rows).all()
    started = time.monotonic()
    order = SampleOrder(index.counts, 0, 1, 16)
    order.at(123_456_789)
    assert time.monotonic() - started < 1
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name, stage", [("mars_7b", 1), ("mars_7b", 3), ("mars_1b", 3)])
def test_the_shards_that_a_reader_holds_take_little_memory(tmp_path: Path, name: str, stage: int) -> None:
    """A stage's window and the next one's first shard, 10,000 rows each, in 300 MB: tried with a fifth of them."""
    recipe = load_recipe(name)
    tokenization, held = recipe.tokenization, recipe.stages[stage - 1].window_shards + 1
    high = (tokenization.size_hr_px // 16) ** 2 if recipe.stages[stage - 1].task_shares.get("high_resolution") else None
    fingerprint = Fingerprint(
        "vq", "text", {}, "float32", [4, 256, 256, 3], 8192, 256, 77, {"c": "en"}, num_codes_hr=high
    )
    random = np.random.default_rng(0)
    codes = random.integers(0, 8192, (2_000, 256)).astype(np.uint16)
    codes_hr = random.integers(0, 8192, (2_000, high)).astype(np.uint16) if high else [None] * 2_000
    ids = list(range(100_000, 100_030))
    lines = [
        {
            "sample_id": f"00000.tar/{number:06d}",
            "codes": line,
            "codes_hr": line_hr,
            "captions": [{"lang": lang, "text": "a" * 120, "ids": ids, "truncated": False} for lang in ("en", "zh")],
        }
        for number, (line, line_hr) in enumerate(zip(codes, codes_hr, strict=True))
    ]
    write_token_shard(tmp_path / "00000.parquet", lines, fingerprint)
    names = [f"{number:05d}.parquet" for number in range(held)]
    for name in names[1:]:
        (tmp_path / name).hardlink_to(tmp_path / "00000.parquet")
    index = RowIndex.of(names, [np.arange(2_000)] * held)
    reader = TokenReader(tmp_path, index, held_shards=held, high_resolution=high is not None)
    tracemalloc.start()
    for shard in range(held):
        assert (reader.row(shard, 1000).codes == codes[1000]).all()
    tables = [table for table, _ in reader._cache.values()]
    assert len(tables) == held
    held_bytes = sum(table.get_total_buffer_size() for table in tables)  # whole buffers, also where a part is used
    assert tracemalloc.get_traced_memory()[1] + held_bytes < 300e6 / 5
    tracemalloc.stop()


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_packing_puts_every_sample_into_one_row_that_fits(lengths: list[int], world_size: int) -> None:
    rows = pack_rows(lengths, 120, world_size)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 120 for row in rows)
    assert len(rows) % world_size == 0


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 5)), min_size=1, max_size=4),
    st.integers(4, 32),
    st.integers(0, 10**9),
)
@settings(max_examples=60, deadline=None)
def test_every_source_is_read_in_its_own_order_without_gap_or_repetition(
    sources: list[tuple[int, float]], size: int, far: int
) -> None:
    weights = [weight for _, weight in sources]
    orders = [SampleOrder(np.asarray([rows]), 0, 1, 2, number) for number, (rows, _) in enumerate(sources)]
    if no_room(weights, size):
        return
    mixed = MixedOrder(orders, weights, size)
    read: list[list[tuple[int, int]]] = [[] for _ in orders]
    for step in range(20):
        samples = mixed.step(step).tolist()
        assert len(samples) == size
        for source, shard, row in samples:
            read[source].append((shard, row))
    for order, known in zip(orders, read, strict=True):
        assert known == [order.at(position) for position in range(len(known))]
    assert mixed.taken(20) == [len(samples) for samples in read]
    assert sum(mixed.taken(far)) == far * size
    for taken, weight in zip(mixed.taken(far), weights, strict=True):
        assert abs(taken - far * size * weight / sum(weights)) <= len(weights) * (1 + far * size / PARTS)


def test_sources_that_a_step_has_no_room_for_are_refused() -> None:
    assert "3 sources do not fit into steps of 2" in no_room([1, 1, 1], 2)
    assert no_room([1, 0.001], 2) == ""
