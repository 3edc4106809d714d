"""A shard of which nearly nothing can be used is told of at once, with the likely cause."""

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.corpora import corpus_in
from tests.support.pictures import TarSample, noise_png, write_tar
from tests.support.tokens import FINGERPRINT
from tokenization.config.tokenization import TokenizationConfig
from tokenization.files.storage import open_storage
from tokenization.job.alarm import alarm_of
from tokenization.job.rows import read_chunks
from tokenization.job.writer import Writer


def alarm(folder: Path, samples: list[TarSample], tokenizer: PreTrainedTokenizerFast) -> str:
    write_tar(folder / "in" / "a.tar", samples)
    writer = Writer(str(folder / "out"), FINGERPRINT)
    config = TokenizationConfig(32, encode_batch_size=64)
    (chunk,) = read_chunks(corpus_in(folder / "in"), "a.tar", config, tokenizer)
    for row in chunk.rows:
        row["codes"] = np.zeros(FINGERPRINT.num_codes, np.uint16)
    writer.add("a.tar", 0, chunk.rows, chunk.rejects, chunk.notes)
    ended = writer.finish("a.tar", 1)
    assert ended is not None
    return alarm_of(open_storage(folder / "out"), "a.tar", ended)


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
    said = alarm_of(open_storage(tmp_path), "a.tar", "shard 'a.tar' of 'in': no readable tar")
    assert said == "the first shard cannot be read: shard 'a.tar' of 'in': no readable tar"
