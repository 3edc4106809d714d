"""The books count each file, member and row once."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.corpora import corpus_in
from tests.support.corpus_files import write_paths
from tests.support.pictures import TarSample, noise_png, write_tar
from tests.support.plain_job import CONFIG, tokenize_plainly
from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.leftovers import OTHER, PICTURE
from tokenization.corpora.samples import Sample
from tokenization.job.rows import passed_through, read_chunks
from tokenization.table.queries import INCOMPARABLE


def test_a_file_that_several_rows_and_shards_name_is_one_file(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Else another file that no row names would vanish from the books."""
    folder = tmp_path / "in"
    write_paths(folder / "a", ["../0.png", "../0.png", "../1.png"])
    write_paths(folder / "b", ["../0.png", "../bad.png", "../notes.dat"])
    for name, content in (("0", noise_png(0)), ("1", noise_png(1)), ("bad", b"no picture"), ("2", noise_png(2))):
        (folder / f"{name}.png").write_bytes(content)
    (folder / "notes.dat").write_bytes(noise_png(3))
    (folder / "other.dat").write_bytes(b"other")
    made = tokenize_plainly(folder, tmp_path / "out", tokenizer)
    assert (made.rows_out, made.rejects_by_reason) == (5, {"bad picture": 1})
    assert made.ignored == {OTHER: 1, PICTURE: 1}


@pytest.mark.parametrize(
    ("where", "matched", "lost"),
    [
        ("name.str.len() > 2", [0, 2, 6], 0),
        ("name > other", [0, 1, 6], 2),
        ("name.str.contains('c') or score > 6", [2, 4, 5, 6], 0),
    ],
)
def test_rows_that_cannot_be_compared_cost_themselves_alone(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, where: str, matched: list[int], lost: int
) -> None:
    """And which rows are chunks together decides nothing."""
    names = ["123", "7", "abc", 1, None, "b", 2001]
    samples: list[TarSample] = [
        (f"{row}", noise_png(row), {"caption": "x", "name": name, "other": "5" if row else 7, "score": row * 2})
        for row, name in enumerate(names)
    ]
    write_tar(tmp_path / "a.tar", samples)
    for size in (1, 2, 3, 7):
        config = TokenizationConfig(32, 64, where, CONFIG.caption_columns, encode_batch_size=size)
        chunks = list(read_chunks(corpus_in(tmp_path), "a.tar", config, tokenizer))
        high = [int(chunk.rows[place]["sample_id"][-1]) for chunk in chunks for place in chunk.places_hr]
        assert high == matched, size
        assert sum(chunk.notes.not_numbers[INCOMPARABLE] for chunk in chunks) == lost, size


def test_a_column_of_the_tables_name_and_one_of_its_new_name_are_both_kept() -> None:
    row = {"codes": 1, "source_codes": 2, "source_source_codes": 3, "source": 4, "source_url": 5, "width": 6}
    assert passed_through(Sample("key", metadata=row), CONFIG) == {
        "source_codes": 1,
        "source_source_codes": 2,
        "source_source_source_codes": 3,
        "source": 4,
        "source_url": 5,
    }
