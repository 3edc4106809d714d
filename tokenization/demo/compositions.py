"""Which pairs of a subject and a skin tone are held out, to see whether a model composes what it never saw together."""

import hashlib

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
VARIANTS = ("", *TONES)
"""The six drawings of a subject: without a tone, and one in each."""

SEEN, UNSEEN = "seen", "unseen"
HELD_OUT_SHARE = 0.1


def compositions(drawings: list[tuple[str, tuple[str, ...]]]) -> list[tuple[str, int]]:
    """Says of every drawing whether its pair of subject and tone is held out.

    A subject counts that is drawn in all six variants with at most one modifier each: couples, which have two even
    where both are alike, do not. A tenth of their pairs is unseen, at most one of a subject and as many of each variant
    as of the others, so that every subject and every tone remains in what is seen. The choice follows from the
    subjects alone.

    Args:
        drawings: subject (any text that tells subjects apart) and the tone of each modifier.

    Returns:
        For each drawing `seen` or `unseen` and its rank among those, in random order; empty and -1 for drawings of
        other subjects.
    """
    variants: dict[str, set[str]] = {}
    for subject, tones in drawings:
        if len(tones) < 2:
            variants.setdefault(subject, set()).add("".join(tones))
    complete = sorted((subject for subject, found in variants.items() if found == set(VARIANTS)), key=_digest)
    num_held_out = min(len(complete), round(HELD_OUT_SHARE * len(complete) * len(VARIANTS)))
    held_out = {(subject, VARIANTS[number % len(VARIANTS)]) for number, subject in enumerate(complete[:num_held_out])}
    ranks: dict[str, dict[tuple[str, str], int]] = {}
    for name, is_held_out in ((SEEN, False), (UNSEEN, True)):
        pairs = [(subject, tone) for subject in complete for tone in VARIANTS]
        chosen = sorted((pair for pair in pairs if (pair in held_out) == is_held_out), key=lambda pair: _digest(*pair))
        ranks[name] = {pair: rank for rank, pair in enumerate(chosen)}
    found = []
    for subject, tones in drawings:
        pair = (subject, "".join(tones)) if len(tones) < 2 else None
        found.append(next(((name, of_name[pair]) for name, of_name in ranks.items() if pair in of_name), ("", -1)))
    return found


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\n".join(parts).encode()).digest()
