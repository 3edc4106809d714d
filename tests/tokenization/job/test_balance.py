"""After a minute a job says whether readers or encoders are short, with numbers that balance them."""

import re

import pytest

from tokenization.job import balance
from tokenization.job.balance import Balance, verdict_of
from tokenization.job.writer import News


@pytest.mark.parametrize(
    ("rates", "actors", "said"),
    [
        (
            (200, 1000),
            (96, 64),
            "decoding is short: .* 19,200 .* 64,000; --readers 320 .*, or --encoders 19 ",
        ),
        ((200, 30), (2, 2), "encoding is short: .* 400 .* 60; --encoders 14 would take all, or --readers 1 would do"),
        ((200, 190), (10, 10), "decoding and encoding are even: .*"),
        ((5, 1000), (1, 2), "decoding is short: .* --readers 400 would feed all, or --encoders 1 would do"),
    ],
)
def test_what_is_short_is_named_with_the_numbers(
    rates: tuple[float, float], actors: tuple[int, int], said: str
) -> None:
    verdict = verdict_of(*rates, *actors)
    assert re.match(said, verdict), verdict
    numbers = {name: int(number) for name, number in re.findall(r"--(readers|encoders) (\d+)", verdict)}
    if "readers" in numbers:  # a recipe with the first number is even, or has enough
        enough = verdict_of(*rates, *((numbers["readers"], actors[1]) if "decoding" in said else actors))
        assert not enough.startswith("decoding is short")


def test_it_is_said_when_the_first_minute_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(balance.time, "monotonic", lambda: now)
    job = Balance(4, 1)
    job.add(News())
    now += 500  # until the first picture comes, GPU nodes may start
    assert job.verdict() == ""
    job.add(News(rows=600, read_s=3.0, encode_s=30.0))
    now += 59
    assert job.verdict() == ""
    job.add(News(rows=600, read_s=3.0, encode_s=30.0))
    now += 2
    assert job.verdict().startswith("encoding is short: a reader makes 200 pictures/s and an encoder takes 20, so 4 r")
