"""Training on tokens that lie in S3: the same samples, there before they are needed, whatever S3 does."""

import shutil
import threading
import time
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.benchmarks.feed import measure_feed
from pipeline.benchmarks.random_tokens import FeedBenchmark
from pipeline.config.vocabulary import JointVocabulary
from pipeline.data.batch_plan import StagePlan
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.data.sample_order import MixedOrder, SampleOrder
from pipeline.data.sequences import SequenceBuilder
from pipeline.data.shard_fetcher import ShardFetcher
from pipeline.data.token_reader import TokenReader
from pipeline.planning.work import SampleLengths
from tests.support.faulty_server import ServerOf
from tests.support.s3 import BUCKET, FaultyS3
from tests.support.small_models import CODEBOOK, END_ID, TEXT_VOCAB
from tests.support.tokens import STAGE, stored_row_index, write_documents, write_tokens
from tokenization.files.storage import open_storage

WHERE = "score >= 0.2"
URL = f"s3://{BUCKET}/run/tokens"
BUCKETS = ["s3", *(pytest.param(scheme, marks=pytest.mark.long) for scheme in ("gs", "az"))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tokens"
    write_tokens(folder, shards=9)
    write_documents(folder / "documents")
    return folder


@pytest.fixture
def tokens(folder: Path, s3: FaultyS3) -> Path:
    """A folder, and the same in S3."""
    copy(folder, URL)
    return folder


def copy(folder: Path, url: str) -> None:
    storage = open_storage(url)
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write(path.relative_to(folder).as_posix(), partial(shutil.copyfile, path))


def plan_of(place: str | Path) -> StagePlan:
    index = build_row_index(RowSelection(place, WHERE))
    orders = MixedOrder([SampleOrder(index.counts, 0, 1, window_shards=3)], [1.0], STAGE.global_batch_size)
    builder = SequenceBuilder(JointVocabulary(TEXT_VOCAB, CODEBOOK), {"en": [5, 6, 7], "zh": [8, 9]}, END_ID)
    return StagePlan(STAGE, 1, 0, orders, [TokenReader(place, index, 4)], builder)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", BUCKETS)
def test_tokens_in_a_bucket_are_those_of_the_folder_they_came_from_though_every_fifth_request_fails(
    folder: Path, scheme: str, server_of: ServerOf
) -> None:
    server, url = server_of(scheme), f"{scheme}://{BUCKET}/run/tokens"
    copy(folder, url)
    server.fault_every = 5
    assert build_row_index(RowSelection(url, WHERE)).sha256() == build_row_index(RowSelection(folder, WHERE)).sha256()
    local, remote = plan_of(folder), plan_of(url)
    for number in range(10):  # more than an epoch
        here, there = local.step(number, 0, 1), remote.step(number, 0, 1)
        assert local.sample_ids([number]) == remote.sample_ids([number])
        for mine, other in zip(here.micro_steps, there.micro_steps, strict=True):
            for first, second in zip(mine, other, strict=True):
                assert first.text.ids.equal(second.text.ids) and first.visual.ids.equal(second.visual.ids)
    assert server.injected.total() > 10


@pytest.mark.slow
def test_a_selection_over_s3_is_kept_until_a_shard_changes(tokens: Path, tmp_path: Path, s3: FaultyS3) -> None:
    kept = tmp_path / "rows.parquet"
    selection = RowSelection(URL, WHERE)
    first = stored_row_index(kept, selection)
    written = kept.stat().st_mtime_ns
    assert stored_row_index(kept, selection).sha256() == first.sha256() and kept.stat().st_mtime_ns == written
    write_tokens(tokens, shards=9, rows=8)
    copy(tokens, URL)
    assert stored_row_index(kept, selection).counts.sum() < first.counts.sum()


@pytest.mark.slow
def test_the_next_window_is_fetched_while_the_present_one_trains(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a step reads was requested in the previous step or earlier."""
    begun: list[str] = []
    fetch = ShardFetcher._fetch

    def recorded(self: ShardFetcher, name: str) -> pa.Table:
        begun.append(name)
        return fetch(self, name)

    monkeypatch.setattr(ShardFetcher, "_fetch", recorded)
    plan = plan_of(URL)
    read: set[str] = set()
    (reader,) = plan.readers
    assert isinstance(reader, TokenReader)
    for number in range(8):
        for coming in reader._fetcher._coming.values():
            coming.wait()
        there = set(begun)
        plan.step(number, 0, 1)
        new = {reader._index.shard(shard) for shard in reader._cache} - read
        assert number == 0 or new <= there, number
        read |= new
    assert len(read) > 2 * 3, "several windows of three shards"
    assert len(begun) < 3 * len(read), "and not again and again"


def test_a_shard_that_another_thread_waits_for_is_fetched_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes answer each other in threads, while they fetch ahead in another one."""
    begun, may_go = list[str](), threading.Event()
    fetch = ShardFetcher._fetch

    def slow(self: ShardFetcher, name: str) -> pa.Table:
        begun.append(name)
        may_go.wait(10)
        return fetch(self, name)

    monkeypatch.setattr(ShardFetcher, "_fetch", slow)
    reader = TokenReader(folder, build_row_index(RowSelection(folder)), 4)
    reader._fetcher = ShardFetcher(reader._storage, reader._columns)
    with ThreadPool(1) as pool:
        row = pool.apply_async(reader.row, (0, 0))
        while not begun:
            time.sleep(0.01)
        reader.ahead([0])
        may_go.set()
        row.get(10)
        reader.ahead([0])
    assert not reader._fetcher._coming and len(begun) == 1


@pytest.mark.slow
def test_nothing_fetched_stays_behind(tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    plan = plan_of(URL)
    for number in range(6):
        plan.step(number, 0, 1)
    deadline = time.monotonic() + 10  # a shard that is being fetched ahead has a name until it is open
    while (left := list((tmp_path / "temporary").iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


@pytest.mark.slow
def test_the_benchmark_counts_what_training_would_wait(tokens: Path) -> None:
    lengths = SampleLengths(num_codes=9, num_high_codes=16, mean_caption_ids=3, max_caption_ids=9)
    stage_of = lambda step_s: FeedBenchmark(  # noqa: E731
        STAGE, 1, JointVocabulary(TEXT_VOCAB, CODEBOOK), lengths, 2, step_s=step_s, steps=6, shard_rows=10
    )
    slow, fast = (measure_feed(str(tokens), stage_of(step_s), lambda line: None) for step_s in (0.5, 1e-4))
    assert slow["data_wait_share"] < 0.1
    assert fast["data_wait_share"] > 0.9
