"""A query that holds a share of a corpus's rows out, by the last characters of their names."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from pipeline.errors import UsageError

LARGEST_SHARE, MOST_ROWS, LEAST_ROWS = 0.1, 5000, 32
"""At most this share and about this many rows are held out, and at least so many if the share allows it."""
USUAL_SHARE = 0.05
FINEST_SHARE = 0.01
"""Of a large corpus, up to this share is held out where the known names do not show what a smaller one would be."""
MOST_ENDINGS = (8, 128)
"""Most endings in a query: the first number if that is enough, so that one sees at a glance what it selects."""
LONGEST_NUMBER, LONGEST_ENDING = 4, 32
"""Most digits and other characters of an ending."""
COUNTABLE = 10
"""A share is measured if so many of the known names are expected to have it."""
EVEN = 1.5
"""Each last digit is at most so many times as frequent as a tenth, and no less frequent than that part of it."""
NEAR = 1.5
"""No other endings are tried if the share is the wanted one but for this factor."""
PLAIN = " _/-,#"
"""Punctuation that means itself in a pattern."""
FILE_ENDING = re.compile(r"[.][A-Za-z0-9]{2,5}$")


@dataclass(frozen=True)
class HeldOut:
    """The rows held out.

    Attributes:
        query: a query for `Source.held_out`.
        share: the expected share of the rows.
    """

    query: str
    share: float


def held_out_rows(names: Sequence[str], rows: int) -> HeldOut:
    """Chooses endings of names that a suitable share of the rows has.

    What all names end with counts as little as a file's ending: what is before it decides. Where the last digits are
    evenly frequent, they are numbers, of which each is as frequent as the others. Otherwise the endings' frequencies
    among the names decide. Either way the query is tried on the names.

    Args:
        names: the samples' keys, of some rows.
        rows: number of all rows.

    Raises:
        UsageError: no endings hold a suitable share out.
    """
    wanted = min(max(USUAL_SHARE, LEAST_ROWS / rows), LARGEST_SHARE, MOST_ROWS / rows)
    least, most = wanted / 2, max(2 * wanted, FINEST_SHARE)
    names = [f"/{name}" for name in names]
    stems = [FILE_ENDING.sub("", name) for name in names]
    of_files = sum(name != stem for name, stem in zip(names, stems, strict=True)) > len(stems) / 2
    shared = _shared_end(stems)
    after = f"{_literal(shared)}{'[.][A-Za-z0-9]+' if of_files else ''}$"
    suitable: list[HeldOut] = []
    for endings, expected in _candidates([stem.removesuffix(shared) for stem in stems], wanted):
        if not least <= expected <= most:
            continue
        pattern = f"(?:{'|'.join(map(_literal, endings))}){after}"
        counted = sum(bool(re.search(pattern, name)) for name in names)
        share = counted / len(names) if max(expected * len(names), counted) >= COUNTABLE else expected
        if least <= share <= most and counted < len(names):
            suitable.append(HeldOut(f"sample_id.str.contains('{pattern}')", share))
            if max(share / wanted, wanted / share) <= NEAR:
                break
    if not suitable:
        raise UsageError(
            f"no endings of the {len(names)} names that were looked at, as {names[0][1:]!r}, hold about {wanted:.1%} "
            "of the rows out; look at more with --rows, or number the pictures"
        )
    return min(suitable, key=lambda found: max(found.share / wanted, wanted / found.share))


def _shared_end(stems: Sequence[str]) -> str:
    letters = takewhile(lambda column: len(set(column)) == 1, zip(*(stem[::-1] for stem in stems), strict=False))
    return "".join(column[0] for column in letters)[::-1]


def _candidates(stems: Sequence[str], wanted: float) -> Iterator[tuple[list[str], float]]:
    """Endings, and the share of the rows that is expected to have one of them: numbers first, then short endings."""
    for length in range(1, _even_digits(stems) + 1):
        count = min(MOST_ENDINGS[0], max(1, round(wanted * 10**length)))
        step = 10**length // count
        yield [f"{number * step + step // 2:0{length}d}" for number in range(count)], count / 10**length
    for most in MOST_ENDINGS:
        for length in range(1, LONGEST_ENDING + 1):
            yield _frequent(Counter(stem[-length:] for stem in stems), len(stems), wanted, most)


def _even_digits(stems: Sequence[str]) -> int:
    """How many of the last characters are digits in all names, each digit about as frequent as the others."""
    even = len(stems) / 10
    for length in range(1, LONGEST_NUMBER + 1):
        counts = Counter(stem[-length] if len(stem) >= length else "" for stem in stems)
        if set(counts) != set("0123456789") or min(counts.values()) < even / EVEN or max(counts.values()) > even * EVEN:
            return length - 1
    return LONGEST_NUMBER


def _frequent(counts: Counter[str], rows: int, wanted: float, most: int) -> tuple[list[str], float]:
    """The most frequent endings that fit into the wanted share: of rare ones the names would tell little. If none fits,
    the rarest one."""
    ordered = sorted(((ending, count) for ending, count in counts.items() if ending), key=lambda one: (-one[1], one[0]))
    chosen: list[str] = []
    taken = 0
    for ending, count in ordered:
        if taken + count <= 1.2 * wanted * rows and len(chosen) < most:
            chosen.append(ending)
            taken += count
    if not chosen and ordered:
        return [ordered[-1][0]], ordered[-1][1] / rows
    return chosen, taken / rows


def _literal(text: str) -> str:
    """The pattern of a text. What a query or a pattern would have to escape, such as a quote, becomes any character."""
    return "".join(letter if letter.isalnum() or letter in PLAIN else "." for letter in text)
