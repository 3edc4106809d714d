"""Whoever decodes the pictures of a shard, its chunks and so its tokens are the same."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from transformers import PreTrainedTokenizerFast

from pipeline.runtime.ray_start_private import without_dashboard_and_log_monitor
from tests.support.corpora import corpus_in
from tests.support.pictures import TarSample, noise_png, write_tar
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.job import decoding
from tokenization.job.chunk import Chunk, sent
from tokenization.job.decoding import PART_BYTES, PART_PICTURES, PartReaders, parts_of
from tokenization.job.reader import Reader
from tokenization.job.rows import Tools, read_chunks

ROWS = 45
CONFIGS = {
    "base": TokenizationConfig(32, caption_columns={"caption": "en"}, encode_batch_size=4),
    "all high": TokenizationConfig(32, 64, caption_columns={"caption": "en"}, encode_batch_size=4),
    "some high": TokenizationConfig(32, 64, "score > 5", {"caption": "en"}, encode_batch_size=4),
}


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar with pictures that cannot be used, and keys that repeat far from each other."""
    folder = tmp_path_factory.mktemp("corpus")
    samples: list[TarSample] = []
    for row in range(ROWS):
        key = "0" if row == 40 else f"{row}"
        picture = b"no picture" if row % 7 == 3 else noise_png(row)
        samples.append((key, picture, {"caption": f"picture {row}" if row % 11 else "", "score": row % 10}))
    write_tar(folder / "a.tar", samples)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with without_dashboard_and_log_monitor(shows_output=False):
        ray.init("local", num_cpus=2, log_to_driver=False)
    yield
    ray.shutdown()


def plain(chunks: Iterator[Chunk]) -> list:
    return [(one.index, one.rows, one.rejects, one.places_hr, one.last) for one in chunks]


def pixels(chunks: list[Chunk]) -> np.ndarray:
    high = [each.pixels_hr.ravel() for each in chunks if each.pixels_hr is not None]
    return np.concatenate([each.pixels.ravel() for each in chunks] + high)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_parts_give_the_chunks_of_the_whole(
    shard: Path, cluster: None, name: str, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part reader dies meanwhile; another one never starts, for want of its resource."""
    monkeypatch.setattr(decoding, "PART_PICTURES", 3)
    config, corpus = CONFIGS[name], corpus_in(shard)
    whole = list(read_chunks(corpus, "a.tar", config, tokenizer))
    for resources in ({}, {"not there": 1.0}):
        workers = Workers(reader_resources=resources)
        with PartReaders(config.transform, name == "all high", 2, workers) as decoder:
            if not resources:
                ray.get(list(decoder.starting))
            chunks = read_chunks(corpus, "a.tar", config, tokenizer, 0, decoder)
            parts = [next(chunks)]
            if not resources:
                assert len(decoder.has) == 2
                ray.kill(next(iter(decoder.has)))
            parts += chunks
        assert plain(iter(parts)) == plain(iter(whole))
        np.testing.assert_array_equal(pixels(parts), pixels(whole))
    assert {reject["reason"] for one in whole for reject in one.rejects} == {
        "bad picture",
        "no caption",
        "repeated key",
    }


@pytest.mark.slow
@pytest.mark.parametrize("large_shard_bytes", [1, 1 << 40])
def test_a_reader_takes_part_readers_for_a_large_shard_alone(
    shard: Path,
    cluster: None,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    large_shard_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[int] = []

    class Counting(PartReaders):
        def __init__(self, *settings: object) -> None:
            used.append(1)
            super().__init__(*settings)  # type: ignore[arg-type]

    monkeypatch.setattr("tokenization.job.reader.PartReaders", Counting)
    monkeypatch.setattr("tokenization.job.reader.load_fast_text_tokenizer", lambda *where: tokenizer)
    tools = Tools(tmp_path, "", tmp_path)
    workers = Workers(large_shard_bytes=large_shard_bytes)
    reader = Reader(corpus_in(shard), str(tmp_path / "out"), CONFIGS["base"], tools, workers, 2, 0)
    rows = list(reader({"shards": np.array([["a.tar"]], object)}))
    whole = [sent(one) for one in read_chunks(corpus_in(shard), "a.tar", CONFIGS["base"], tokenizer)]
    assert len(rows) == len(whole) and bool(used) == (large_shard_bytes == 1)


@pytest.mark.slow
def test_a_part_is_bounded_in_pictures_and_in_bytes() -> None:
    groups = [[b"x"] * 3] * PART_PICTURES + [[bytes(PART_BYTES // 2)]] * 5
    parts = list(parts_of(iter(groups)))
    assert [group for part in parts for group in part] == groups
    for part in parts:
        assert sum(map(len, part[:-1])) < PART_PICTURES
        assert sum(len(one) for group in part[:-1] for one in group) < PART_BYTES
