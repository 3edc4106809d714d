"""A large bucket is listed whole, each key once, with few more requests than it has pages."""

import random
from bisect import bisect_right

import pytest

from tokenization.files.object_service import Stored
from tokenization.files.parallel_listing import ParallelListing, between

PAGE = 10
CHANCE = random.Random(0)
CORPORA = {
    "numbers": [f"in/{number:06d}.tar" for number in range(3000)],
    "folders": [f"in/{folder:02x}/é{number}.tar" for folder in range(16) for number in range(150)],
    "letters": ["".join(CHANCE.choices("ab猫\U0001f600~", k=CHANCE.randint(1, 9))) for _ in range(2000)],
    "one": ["in/a.tar"],
    "none": [],
}


class Bucket:
    def __init__(self, keys: list[str]) -> None:
        self.keys, self.asked = sorted(set(keys)), 0

    def ask(self, after: str) -> tuple[list[Stored], bool]:
        self.asked += 1
        start = bisect_right(self.keys, after)
        return [Stored(key, "", 0) for key in self.keys[start : start + PAGE]], start + PAGE < len(self.keys)


@pytest.mark.parametrize("name", CORPORA)
def test_every_key_is_listed_once(name: str) -> None:
    bucket = Bucket(CORPORA[name])
    assert sorted(ParallelListing(bucket.ask, lambda item: item.key).all()) == bucket.keys
    assert bucket.asked <= 3 * len(bucket.keys) / PAGE + 1, "a corpus of few shards must not cost many requests"


def test_the_books_of_a_million_shards_are_not_asked_for() -> None:
    tokens = [f"t/{number:06d}.parquet" for number in range(500)]
    bucket = Bucket([*tokens, *(f"t/books/{number:06d}.json" for number in range(5000))])
    listing = ParallelListing(bucket.ask, lambda item: item.key, ["t/books/"])
    assert sorted(listing.all()) == tokens
    assert bucket.asked < 250, "the books alone have 500 pages"


def test_a_failed_request_fails_the_listing() -> None:
    bucket = Bucket(CORPORA["numbers"])

    def ask(after: str) -> tuple[list[Stored], bool]:
        if after > "in/001500":
            raise ConnectionError("gone")
        return bucket.ask(after)

    with pytest.raises(ConnectionError, match="gone"):
        ParallelListing(ask, lambda item: item.key).all()


@pytest.mark.parametrize(
    ("after", "until"), [("000999", None), ("000999", "1"), ("a/1", "a/2"), ("猫", "鸟"), ("b", None), ("0999", "1000")]
)
def test_a_range_is_cut_between_its_ends(after: str, until: str | None) -> None:
    middle = between(after, until)
    assert after < middle and (until is None or middle < until)
