"""Holds out pairs of a subject and a skin tone, to test if a model combines what it never saw together."""

import hashlib

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
VARIANTS = ("", *TONES)
"""The six drawings of a subject: without a tone, and one in each."""

SEEN, UNSEEN = "seen", "unseen"
HELD_OUT_SHARE = 0.1


def compositions(drawings: list[tuple[str, tuple[str, ...]]]) -> list[tuple[str, int]]:
    """Assigns each drawing's pair of subject and tone to the seen or the held-out pairs.

    It uses the subjects that are drawn in all six variants with at most one modifier each. This excludes couples, which
    have two modifiers even if both are equal. A tenth of the pairs is unseen: at most one pair of each subject, and
    equally many of each variant, so that every subject and every tone occurs among the seen pairs. The choice depends
    on the subjects alone.

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
