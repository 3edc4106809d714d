"""Some rows are held out by their names: about as many as wanted, whatever the names look like."""

import hashlib

import pandas as pd
import pytest

from pipeline.errors import UsageError
from pipeline.own_corpus.held_out import held_out_rows
from tokenization.table.queries import matching

WORDS = ("fox", "oak", "sea", "map", "cup", "sun", "owl", "ink", "arc", "elm", "zoo", "boy")
SENTENCES = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS]
HASHES = [hashlib.md5(str(number).encode()).hexdigest() for number in range(3000)]
CHINESE = "山水火木金土日月人口手足目耳心石田禾竹米虫鱼鸟马牛羊犬豕贝车"
MINUTES = [f"{hour:02d}{minute:02d}" for hour in range(24) for minute in range(60)]
NAMES = {
    "tar": [f"{number:09d}" for number in range(4000)],
    "folder": [f"img_{number:05d}.jpg" for number in range(4000)],
    "60 pictures": [f"{number}.png" for number in range(60)],
    "20 pictures": [f"cup {number}.png" for number in range(1, 21)],
    "short numbers": [f"{number}.png" for number in range(700)],
    "words": [f"{sentence}'s.webp" for sentence in SENTENCES],
    "the year": [f"pic{number}_2019.jpg" for number in range(900)],
    "some years": [f"pic{number}_{2017 + number % 3}.jpg" for number in range(900)],
    "steps of 25": [f"{25 * number:06d}.jpg" for number in range(1, 800)],
    "all end in 5": [f"{10 * number + 5:05d}.jpg" for number in range(800)],
    "screenshots": [f"Screenshot_20240101_{minute}00.png" for minute in MINUTES],
    "few of a day": [f"IMG-2024{month:02d}{day:02d}-WA00{of_day:02d}.jpg" for month in range(1, 13)
                     for day in range(1, 29) for of_day in range(1 + (3 * day + month) % 5)],
    "a size": [f"{sentence.replace(' ', '-')}-1024.png" for sentence in SENTENCES],
    "one name in many folders": [f"{sentence}/picture.jpg" for sentence in SENTENCES],
    "two views": [f"{number:04d}_{side}_view_of_it.png" for number in range(300) for side in ("front", "back")],
    "hashes": HASHES,
    "hashes.jpg": [f"{name}.jpg" for name in HASHES],
    "Chinese": [f"{a}{b}.jpg" for a in CHINESE for b in CHINESE],
    "copies": [f"photo ({number}).jpeg" for number in range(1, 400)],
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
def test_about_as_many_rows_as_wanted_are_held_out(kind: str) -> None:
    names = NAMES[kind]
    wanted = min(max(0.05, 32 / len(names)), 0.1)
    for known in (names, names[::7]):
        if len(known) < 20:
            continue
        held_out = held_out_rows(known, len(names))
        frame = pd.DataFrame({"sample_id": [f"00007/{name}" for name in names]})
        share = len(matching(frame, held_out.query)) / len(names)
        assert wanted / 2 <= share <= 2 * wanted and share == pytest.approx(held_out.share, abs=0.04), held_out
        kept = matching(frame, f"not {held_out.query}")
        assert len(kept) == len(names) - round(share * len(names)), "the language expert reads the others"
        assert len(held_out.query) < 800


def test_of_a_large_corpus_a_few_thousand_rows_are_held_out() -> None:
    names = [f"{shard}{row:04d}" for shard in ("00000", "00001") for row in range(0, 10_000, 3)]
    assert held_out_rows(names, 10_000_000).share * 10_000_000 == pytest.approx(5000, rel=0.5)


def test_of_a_large_corpus_with_other_names_a_hundredth_is_held_out_at_most() -> None:
    share = held_out_rows(HASHES, 10_000_000).share
    assert 0 < share <= 0.01


def test_names_by_which_nothing_can_be_held_out_are_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="no endings of the 1 names .* look at more with --rows, or number"):
        held_out_rows(["cat.jpg"], 1000)
