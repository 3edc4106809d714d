"""What the scores on held-out rows say: beside a model that has learned nothing, and in words."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

MEANINGS = {
    "text_to_image/*/bits_a_code": "bits of a picture's code, given its caption; lower is better",
    "high_resolution/*/bits_a_code": "bits of a high-resolution code, given the others and the caption",
    "captioning/*/bits_a_caption_byte": "bits of a caption's byte, given the picture; lower is better",
    "frequencies/bits_a_code": "bits of a code for a model that knows only how often each code occurs",
    "retrieval/*/pairs": "captions and pictures of the retrieval; guessing is right in 1 of so many",
    "retrieval/*/picture_of_caption": "share of captions whose own picture is the likeliest of all pairs' pictures",
    "retrieval/*/caption_of_picture": "share of pictures whose own caption is the likeliest of all pairs' captions",
}
"""By the names of the figures; * is a language."""


def meanings(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Those of `MEANINGS` that the metrics have a figure of."""
    return {name: text for name, text in MEANINGS.items() if any(fnmatchcase(each, name) for each in metrics)}


def verdicts(metrics: Mapping[str, Any]) -> list[str]:
    """A line for each language's text to image, and for each retrieval. None for metrics without these figures."""
    lines = []
    alone = metrics.get("frequencies/bits_a_code")
    for name, value in metrics.items():
        kind, _, rest = name.partition("/")
        language, _, figure = rest.partition("/")
        if kind == "text_to_image" and figure == "bits_a_code" and alone is not None:
            lines.append(f"text to image, {language}: {_beside_frequencies(value, alone)}")
        elif kind == "retrieval" and figure == "pairs":
            right = [metrics[f"{kind}/{language}/{what}"] for what in ("picture_of_caption", "caption_of_picture")]
            lines.append(
                f"retrieval, {language}: {right[0]:.0%} of the captions find their picture and {right[1]:.0%} of the "
                f"pictures their caption, among {value}; guessing finds {1 / value:.0%}"
            )
    return lines


def _beside_frequencies(bits: float, alone: float) -> str:
    where, what = ("below", "it has learned something") if bits < alone else ("above", "nothing yet for new rows")
    return f"{bits:.2f} bits a code, {where} the {alone:.2f} of the codes' frequencies alone: {what}"
