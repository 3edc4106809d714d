"""Some rows are held out by their names: about as many as wanted, whatever the names look like."""

import pandas as pd
import pytest

from pipeline.errors import UsageError
from pipeline.own_corpus.held_out import held_out_rows
from tokenization.table.queries import matching

WORDS = ("fox", "oak", "sea", "map", "cup", "sun", "owl", "ink", "arc", "elm", "zoo", "boy")
NAMES = {
    "tar": [f"sub/00001.tar/{number:09d}" for number in range(4000)],
    "folder": [f"000000/img_{number:05d}.jpg" for number in range(4000)],
    "words": [f"000000/{a} {b} {c}'s.webp" for a in WORDS for b in WORDS for c in WORDS],
    "short numbers": [f"000000/{number}.png" for number in range(700)],
}


@pytest.mark.parametrize("kind", NAMES)
def test_about_one_row_in_twenty_is_held_out(kind: str) -> None:
    names = NAMES[kind]
    held_out = held_out_rows(names[::7], len(names))
    frame = pd.DataFrame({"sample_id": names})
    share = len(matching(frame, held_out.query)) / len(names)
    assert 0.02 < share <= 0.1 and share == pytest.approx(held_out.share, abs=0.03)
    kept = matching(frame, f"not {held_out.query}")
    assert len(kept) == len(names) - round(share * len(names)), "the language expert reads the others"


def test_of_a_large_corpus_a_few_thousand_rows_are_held_out() -> None:
    held_out = held_out_rows(NAMES["tar"], 10_000_000)
    assert held_out.share * 10_000_000 == pytest.approx(5000, rel=0.5)


def test_of_a_small_corpus_a_tenth_is_held_out_at_most() -> None:
    assert held_out_rows(NAMES["folder"], 40).share == pytest.approx(0.1)


def test_names_that_all_end_alike_are_refused() -> None:
    with pytest.raises(UsageError, match="all end alike"):
        held_out_rows([f"000000/{word}/picture.jpg" for word in WORDS], 1000)
