"""A shard of which nearly nothing can be used is reported at once, with the likely cause."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.corpora import corpus_in
from tests.support.pictures import TarSample, noise_png, write_tar
from tests.support.plain_job import encoded
from tests.support.tokens import FINGERPRINT, statistics_of
from tokenization.config.tokenization import TokenizationConfig
from tokenization.files.storage import open_storage
from tokenization.job.alarm import Alarm
from tokenization.job.rows import read_chunks
from tokenization.job.writer import Writer
from tokenization.table.shard_statistics import ShardStatistics, rejects_name


def alarm(folder: Path, samples: list[TarSample], tokenizer: PreTrainedTokenizerFast) -> str:
    write_tar(folder / "in" / "a.tar", samples)
    writer = Writer(str(folder / "out"), FINGERPRINT)
    config = TokenizationConfig(32, encode_batch_size=64)
    (chunk,) = read_chunks(corpus_in(folder / "in"), "a.tar", config, tokenizer)
    writer.add([encoded(chunk)])
    ((_, ended),) = writer.news().ended
    return Alarm(open_storage(folder / "out")).ended("a.tar", ended)


@pytest.mark.slow
def test_a_wrong_caption_column_is_named_with_those_that_are_there(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    samples: list[TarSample] = [(f"{row}", noise_png(row), {"caption": "x", "url": "y"}) for row in range(5)]
    said = alarm(tmp_path, [*samples, ("5", b"no picture", {"caption_en": "x"})], tokenizer)
    assert said == (
        "all 6 samples of shard 'a.tar' are rejected: 5 for 'no caption', as '0': none of the columns caption_en, "
        "caption_zh holds a text; the columns with texts are caption, url (--captions en=caption)"
    )


@pytest.mark.parametrize(("good", "is_told"), [(0, True), (1, True), (2, False), (20, False)])
def test_nearly_all_is_told_and_a_few_are_not(
    tmp_path: Path, good: int, is_told: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    samples: list[TarSample] = [(f"{row}", noise_png(row), {"caption_en": "x"}) for row in range(good)]
    samples += [(f"bad{row}", b"<html>", {"caption_en": "x"}) for row in range(10)]
    said = alarm(tmp_path, samples, tokenizer)
    assert bool(said) == is_told
    if good == 1:
        assert said.startswith("10 of 11 samples of shard 'a.tar' are rejected: 10 for 'bad picture', as 'bad0'")
        assert "an HTML page" in said


def test_a_first_shard_that_cannot_be_read_is_told_at_once(tmp_path: Path) -> None:
    said = Alarm(open_storage(tmp_path)).ended("a.tar", "shard 'a.tar' of 'in': no readable tar")
    assert said == "the first shard cannot be read: shard 'a.tar' of 'in': no readable tar"


def test_shards_without_samples_or_with_few_do_not_mute_it(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    reject = {"key": "a", "reason": "no caption", "message": "one line\u2028of text"}

    def books(rows: int, rejects: int) -> ShardStatistics:
        line = json.dumps(reject, ensure_ascii=False) + "\n"
        storage.write(rejects_name("a.tar"), lambda path: path.write_text(line * rejects, encoding="utf-8"))
        return statistics_of(np.zeros((rows, 1), np.uint16), [reject] * rejects)

    alarm = Alarm(storage)
    assert [alarm.ended("a.tar", books(0, 0)), alarm.ended("b.tar", books(1, 0))] == ["", ""]
    assert "19 of 20 samples of the first shards, of which 'a.tar' is one, are" in alarm.ended("a.tar", books(0, 19))
    assert alarm.ended("a.tar", books(0, 99)) == "", "it is told once"
    alarm = Alarm(storage)
    assert [alarm.ended("a.tar", books(100, 0)), alarm.ended("a.tar", books(0, 99))] == ["", ""]
    assert alarm.ended("b.tar", "torn") == "", "that is told at the end"
