"""The feed of one node of a simulated cluster is measured with the real process."""

from dataclasses import replace

import pytest

from pipeline.benchmarks import node_feed
from pipeline.benchmarks.node_feed import measure_node_feed
from pipeline.benchmarks.random_tokens import FeedBenchmark
from pipeline.config.vocabulary import JointVocabulary
from pipeline.planning.work import SampleLengths
from tests.support.small_models import CODEBOOK, TEXT_VOCAB
from tests.support.tokens import STAGE


@pytest.mark.slow
def test_a_node_of_two_reads_its_own_shards_and_starts_in_a_large_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_feed, "SHARD_ROWS", 64)
    lengths = SampleLengths(num_codes=9, num_high_codes=16, mean_caption_ids=3, max_caption_ids=9)
    stage = replace(STAGE, global_batch_size=32, window_shards=4)
    benchmark = FeedBenchmark(stage, 1, JointVocabulary(TEXT_VOCAB, CODEBOOK), lengths, 16, 0.0, 1, 64)
    peaks: list[int] = []
    really = node_feed.peak_bytes_of

    def peak_bytes_of(process_id: int) -> int:
        peaks.append(really(process_id))
        return peaks[-1]

    monkeypatch.setattr(node_feed, "peak_bytes_of", peak_bytes_of)
    figures = measure_node_feed(benchmark, 100_000, lambda line: None)
    assert figures["ranks"] == 16 and figures["steps"] == 64 and figures["index_rows"] == 100_000
    assert 0 < figures["plan_cpu_s_a_step"] < 1 and 0 < figures["cpu_s_a_step"] < 1
    assert 0 < figures["fetched_over_own_bytes"] < 4, "of small files, footers are a large part"
    assert 0 < figures["start_s"] < 60
    assert [figures["peak_rss_fed_bytes"], figures["peak_rss_bytes"]] == peaks and min(peaks) > 5e7
