"""Damage by rule in every layout: the books close, nothing is written elsewhere, and no picture takes more than its
bounds of memory and time."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.damage import LAYOUTS, damaged_containers, whole_pictures, write_damaged_corpus
from tests.support.plain_job import LIMITS, tokenize_plainly
from tokenization.config.pictures import Transform
from tokenization.corpora.pictures import Picture, load_picture
from tokenization.errors import InputError
from tokenization.job import decoding

MOST_BYTES = 64_000_000 + 32 * LIMITS.max_pixels
MOST_S = 2.0
"""A picture's bounds: memory beside what the process had before, and seconds of a core."""


class Bounds:
    """Watches what each picture takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most_bytes, self.most_s, self.pictures = 0, 0.0, 0
        monkeypatch.setattr(decoding, "load_picture", self._load)

    def _load(self, content: bytes, transform: Transform) -> Picture:
        with suppress(OSError):  # where /proc cannot be written to, only a new peak of the whole process is seen
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is there now
        before, start = _memory("VmRSS"), time.process_time()
        try:
            return load_picture(content, transform)
        finally:
            self.most_s = max(self.most_s, time.process_time() - start)
            self.most_bytes = max(self.most_bytes, _memory("VmHWM") - before)
            self.pictures += 1


def _memory(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bounds]:
    watch = Bounds(monkeypatch)
    yield watch
    assert watch.most_bytes < MOST_BYTES and watch.most_s < MOST_S


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_damage(
    tmp_path: Path, layout: str, samples: int, containers: int, tokenizer: PreTrainedTokenizerFast
) -> dict[str, int]:
    """Tokenizes a damaged corpus, and corpora of damaged shards. Returns rejects by reason."""
    inputs, output = tmp_path / "inputs", tmp_path / "output"
    written = write_damaged_corpus(inputs / "samples", layout, samples)
    broken = list(damaged_containers(inputs / "containers", layout, containers))
    before = files_in(inputs)
    manifest = tokenize_plainly(inputs / "samples", output, tokenizer)
    assert not manifest.failed_shards and not manifest.ignored
    assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected == len(written)
    kept = [name for path in output.glob("*.parquet") for name in pq.read_table(path)["sample_id"].to_pylist()]
    rejects = [json.loads(line) for path in output.rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert (len(kept), len(rejects)) == (manifest.rows_out, manifest.rows_rejected)
    assert len({*kept, *(f"{one['shard']}/{one['key']}" for one in rejects)}) == len(written)
    assert all(one["reason"] and one["message"] and " at 0x" not in one["message"] for one in rejects)
    for corpus in broken:
        _close_or_refuse(corpus, tmp_path / "broken" / corpus.name, tokenizer)
    assert files_in(inputs) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "inputs", "output"]
    return manifest.rejects_by_reason


def _close_or_refuse(corpus: Path, output: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    output.mkdir(parents=True)
    try:
        manifest = tokenize_plainly(corpus, output, tokenizer)
    except InputError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected
    assert manifest.rows_in or manifest.failed_shards or manifest.ignored or not any(corpus.glob("*.png")), corpus


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_damage_in_every_layout_closes_the_books(
    tmp_path: Path, layout: str, bounds: Bounds, tokenizer: PreTrainedTokenizerFast
) -> None:
    """In all layouts together a thousand files."""
    reasons = check_damage(tmp_path, layout, 100, 17, tokenizer)
    assert reasons["bad picture"] > 40 and bounds.pictures > 80


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ten_thousand_damaged_files_close_the_books(
    tmp_path: Path, layout: str, bounds: Bounds, tokenizer: PreTrainedTokenizerFast
) -> None:
    """In all layouts together more than ten thousand; run with -m long."""
    reasons: dict[str, Any] = check_damage(tmp_path, layout, 1100, 64, tokenizer)
    assert reasons["bad picture"] > 440 and bounds.pictures > 880


def test_every_picture_that_is_damaged_here_can_be_read_whole() -> None:
    for suffix, content in whole_pictures():
        assert load_picture(content, Transform(16)).width == (24 if suffix == "ico" else 40), suffix
