"""A query that holds a share of a corpus's rows out, by the last characters of their names."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import UsageError

LARGEST_SHARE, MOST_ROWS, LEAST_ROWS = 0.1, 5000, 32
"""At most this share and about this many rows are held out, and at least so many if the share allows it."""
USUAL_SHARE = 0.05
MOST_ENDINGS = 8
LONGEST_NUMBER, LONGEST_ENDING = 4, 8
"""Most endings in a query, and the most digits and other characters of one: a query shows at a glance what it selects.
"""
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


def held_out_rows(sample_ids: Sequence[str], rows: int) -> HeldOut:
    """Chooses endings of names that a suitable share of the rows has.

    Names that end with digits are numbers: each last digit is as frequent as the others, and so are two, three and four
    of them. Of other names the endings' frequencies in the sample decide. A file's ending does not count.

    Args:
        sample_ids: names of some rows.
        rows: number of all rows.

    Raises:
        UsageError: all names end alike.
    """
    wanted = min(max(USUAL_SHARE, LEAST_ROWS / rows), LARGEST_SHARE, MOST_ROWS / rows)
    stems = [FILE_ENDING.sub("", name) for name in sample_ids]
    of_files = sum(name != stem for name, stem in zip(sample_ids, stems, strict=True)) > len(stems) / 2
    numbered = all(re.search(rf"[0-9]{{{LONGEST_NUMBER}}}$", stem) for stem in stems)
    lengths = range(1, (LONGEST_NUMBER if numbered else LONGEST_ENDING) + 1)
    candidates = [found for length in lengths if (found := _endings(stems, length, wanted, numbered))]
    if not candidates:
        raise UsageError(
            f"the rows' names all end alike, as {sample_ids[0]!r} does, so that no rows can be held out by them; "
            "name the pictures differently"
        )
    endings, share = min(candidates, key=lambda found: (abs(found[1] - wanted) > wanted / 2, len(found[0][0])))
    pattern = f"(?:{'|'.join(map(_literal, endings))}){'[.][A-Za-z0-9]+' if of_files else ''}$"
    return HeldOut(f"sample_id.str.contains('{pattern}')", share)


def _endings(stems: Sequence[str], length: int, wanted: float, numbered: bool) -> tuple[list[str], float] | None:
    """Endings of a length, and the share that has one of them; None if all names end alike."""
    if numbered:
        count = min(MOST_ENDINGS, max(1, round(wanted * 10**length)))
        step = 10**length // count
        return [f"{number * step + step // 2:0{length}d}" for number in range(count)], count / 10**length
    counts = Counter(stem[-length:] for stem in stems)
    if len(counts) < 2:
        return None
    chosen: list[str] = []
    share = 0.0
    for ending, count in sorted(counts.items(), key=lambda found: (found[1], found[0])):
        most = 1.2 * wanted if chosen else LARGEST_SHARE
        if share + count / len(stems) > most or len(chosen) == MOST_ENDINGS:
            break
        chosen.append(ending)
        share += count / len(stems)
    return (chosen, share) if chosen else None


def _literal(text: str) -> str:
    """The pattern of a text. What a query or a pattern would have to escape, such as a quote, becomes any character."""
    return "".join(letter if letter.isalnum() or letter in PLAIN else "." for letter in text)
