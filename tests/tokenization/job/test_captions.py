"""The right text becomes a sample's caption, and a sample without one is rejected with the reason."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.corpora import corpus_in
from tests.support.corpus_files import write_members
from tests.support.pictures import noise_png, write_tar
from tests.support.tokens import FINGERPRINT, statistics_of
from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.samples import Sample
from tokenization.errors import InputError
from tokenization.files.local_folder import LocalFolder
from tokenization.job.books import Books
from tokenization.job.captions import MAX_LETTERS, captions_of, why_no_caption, why_no_text
from tokenization.job.rows import read_chunks
from tokenization.table.shard_statistics import (
    Notes,
    read_shard_statistics,
    statistics_name,
    stored_values,
    token_name,
    write_json,
)

ONE = TokenizationConfig(32, caption_columns={"caption": "en"})
TWO = TokenizationConfig(32, caption_columns={"caption": "en", "title": "en", "zh": "zh"})


def test_several_columns_of_one_language_are_several_captions(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_tar(tmp_path / "a.tar", [("0", noise_png(0), {"caption": "a cat", "title": "cat", "zh": "猫", "alt": "x"})])
    (chunk,) = read_chunks(corpus_in(tmp_path), "a.tar", TWO, tokenizer)
    captions = [(caption["lang"], caption["text"]) for caption in chunk.rows[0]["captions"]]
    assert captions == [("en", "a cat"), ("en", "cat"), ("zh", "猫")] and chunk.rows[0]["alt"] == "x"
    assert chunk.notes == Notes()


def test_of_a_list_the_seed_takes_one_as_documented() -> None:
    texts = ["a", " ", "b", 3, "c"]
    sample = Sample("key", metadata={"caption": texts})
    for seed in range(20):
        captions, was_drawn = captions_of(sample, ONE, "x/a.tar", seed)
        digest = hashlib.blake2b(f"{seed}/x/a.tar/key/caption".encode(), digest_size=8).digest()
        assert was_drawn and captions == {"caption": ["a", "b", "c"][int.from_bytes(digest, "little") % 3]}
    taken = Counter(
        captions_of(Sample(f"{key}", metadata={"caption": texts}), ONE, "a", 0)[0]["caption"] for key in range(600)
    )
    assert set(taken) == {"a", "b", "c"} and min(taken.values()) > 150


@pytest.mark.parametrize("value", [["only"], ["", "only"], [None, "only", " "], b"only", [b"only", b"\xff"]])
def test_a_list_of_one_text_is_that_text(value: list) -> None:
    assert captions_of(Sample("key", metadata={"caption": value}), ONE, "a", 0) == ({"caption": "only"}, False)


def test_tokens_whose_captions_another_seed_took_are_not_gone_on_with(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_tar(tmp_path / "a.tar", [(f"{row}", noise_png(row), {"caption": ["a", "b"]}) for row in range(3)])
    (chunk,) = read_chunks(corpus_in(tmp_path), "a.tar", ONE, tokenizer, seed=7)
    assert chunk.notes == Notes(caption_seed=7)
    output = LocalFolder(tmp_path / "tokens")
    none = np.zeros((0, 1), np.uint16)
    one = statistics_of(none, [], notes=chunk.notes, codebook_size=8)
    write_json(output, statistics_name("a.tar"), stored_values(one))
    output.write(token_name("a.tar"), Path.touch)
    books = Books(output, ["a.tar", "b.tar"], 7, 8)
    assert books.done == {"a.tar"}
    with pytest.raises(InputError, match=r"shard 'a.tar' .* among several with seed 7, not 0; set seed=7"):
        Books(output, ["a.tar"], 0, 8)
    books.store()
    with pytest.raises(InputError, match=r"among several with seed 7, not 0; set seed=7"):
        Books(output, ["a.tar"], 0, 8)


@pytest.mark.parametrize(
    ("columns", "metadata", "expected"),
    [
        ({"caption": "en"}, {}, {"caption": "beside"}),
        ({"caption": "en"}, {"caption": "own"}, {"caption": "own"}),
        ({"caption": "en"}, {"caption": " "}, {}),
        ({"captoin": "en"}, {"caption": "own"}, {}),
        ({"caption_zh": "zh"}, {"caption_zh": None, "caption_en": "own"}, {}),
        ({"caption_zh": "zh"}, {"score": 5}, {}),
        ({"txt": "en", "zh": "zh"}, {"zh": "猫"}, {"txt": "beside", "zh": "猫"}),
        ({"txt": "en"}, {"txt": "own"}, {"txt": "own"}),
        ({"en": "en", "zh": "zh"}, {}, {}),
        ({"en": "en", "zh": "zh"}, {"zh": "猫"}, {"zh": "猫"}),
    ],
)
def test_a_text_beside_the_picture_is_its_caption_where_its_language_is_known(
    columns: dict[str, str], metadata: dict[str, Any], expected: dict[str, str]
) -> None:
    config = TokenizationConfig(32, caption_columns=columns)
    assert captions_of(Sample("key", None, metadata, text="beside"), config, "a", 0) == (expected, False)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            Sample("0", None, {"url": "x", "text": "y", "n": 3}),
            r"texts are url, text \(--captions en=text\)",
        ),
        (Sample("0", None, {"n": 3}), "no column has a text"),
        (Sample("0", None, {"caption": 3}), r"no column has a text \(caption holds a value of type int\)"),
        (Sample("0", None, {"caption": None}), r"\(caption holds nothing\)"),
        (Sample("0", None, {}, text="beside"), "names no language; add it as in --captions en=txt"),
        (
            Sample("0", None, {"text": "y"}, text="beside"),
            r"texts are text \(--captions en=text\), and the .txt .* --captions en=txt",
        ),
        (Sample("0", None, {f"c{n:02d}": "x" for n in range(20)}), r"c10, c11, \.\.\. \(--captions"),
    ],
)
def test_where_no_caption_is_found_the_columns_are_named(sample: Sample, message: str) -> None:
    config = TokenizationConfig(32, caption_columns={"caption": "en", "caption_zh": "zh"})
    with pytest.raises(ValueError, match=f"none of the columns caption, caption_zh holds a text.*{message}"):
        raise ValueError(why_no_caption(sample, config))


def test_books_of_past_code_are_read(tmp_path: Path) -> None:
    output = LocalFolder(tmp_path)
    past = {"rows_out": 1, "rows_hr": 0, "rejects": {}, "truncated_captions": 0, "codes_in_use": ""}
    write_json(output, statistics_name("a.tar"), past)
    statistics = read_shard_statistics(output, "a.tar")
    assert stored_values(statistics) == past, "and a corpus without anything new has the same books"
    assert FINGERPRINT.to_json().count("caption_columns") == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x" * MAX_LETTERS, ""),
        ("猫" * MAX_LETTERS, ""),
        ("x" * (MAX_LETTERS + 1), "has 200001 letters, more than 200000"),
        ("e" + "\u0301\u0323" * 501, "has more than 1000 marks on one letter"),
        ("e\u0301\u0323" * 50_000, ""),
        ("\ud800", "has half of a surrogate pair, which is no text"),
    ],
)
def test_a_text_that_would_take_seconds_is_none(text: str, problem: str) -> None:
    assert why_no_text(text) == problem


def test_a_book_beside_a_picture_and_a_name_without_end_cost_their_samples(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    long_name, number = "k" * 100_000, "7" * 5000
    members: list[tuple[str, Any]] = [("0.png", noise_png(0)), ("0.txt", b"a book " * 100_000)]
    members += [(f"{long_name}.png", noise_png(1)), (f"{long_name}.txt", b"one")]
    members += [("1.png", noise_png(2)), ("1.json", f'{{"caption": "one", "n": {number}}}'.encode())]
    members += [("2.png", noise_png(3)), ("2.json", {"x" * 50_000: "text"})]
    write_members(tmp_path / "a.tar", members)
    (chunk,) = read_chunks(corpus_in(tmp_path), "a.tar", ONE, tokenizer)
    reasons = [reject["reason"] for reject in chunk.rejects]
    assert not chunk.rows and reasons == ["bad caption", "bad key", "bad metadata", "no caption"]
    assert all(len(reject["key"]) < 1100 and len(reject["message"]) < 2100 for reject in chunk.rejects)
    assert chunk.rejects[1]["key"].endswith("... (100000 letters)")
