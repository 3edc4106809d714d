"""Finds the caption columns of a corpus, and their languages, from some of its samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tokenization.corpora.samples import Sample
from tokenization.job.captions import LIKELY, TEXT_COLUMN

LANGUAGE_NAMES = {"en", "english", "zh", "cn", "chinese"}
"""Names of columns, or the last parts of such names, that say the language of what is in them."""
LEAST_FILLED = 0.2
"""A column with texts in a smaller share of the samples is no caption column."""
LEAST_WORDS = 3
"""Median words of a column that is taken for captions although its name does not say so."""
LEAST_ALIKE = 0.9
"""Two columns whose texts are equal in this share of the samples are one."""
NO_CAPTIONS = ("url", "key", "license", "author", "sha256", "md5", "exif", "status", "error_message")
"""Columns of img2dataset and of picture collections that hold texts which are no captions."""
CHINESE = ("\u3400", "\u9fff")
"""First and last Chinese character of Unicode's basic plane."""
OTHER_SCRIPTS = (
    ("\u0400", "\u052f"),
    ("\u0590", "\u0dff"),
    ("\u0e00", "\u0eff"),
    ("\u3040", "\u30ff"),
    ("\uac00", "\ud7af"),
)
"""Cyrillic; Hebrew, Arabic and the scripts of India; Thai and Lao; Japanese syllables; Korean."""


@dataclass(frozen=True)
class CaptionColumn:
    """A column with captions.

    Attributes:
        name: the column, or `txt` for a text file beside each picture.
        language: `zh` if most of its texts are mostly Chinese characters, else `en`.
        filled: share of the samples that have a text in it.
        other_script: share of its texts that are in neither Latin letters nor Chinese.
    """

    name: str
    language: str
    filled: float
    other_script: float


def caption_columns(samples: Sequence[Sample]) -> list[CaptionColumn]:
    """Returns the columns that hold captions: those whose names say so, else those that hold sentences."""
    by_column = _text_columns(samples)
    columns = list(by_column)
    named = [name for name in columns if _says_caption(name.lower()) and _is_language(by_column[name])]
    chosen: list[str] = []
    for name in named or [name for name in columns if _has_sentences(by_column[name])]:
        if not any(_are_alike(by_column[name], by_column[other]) for other in chosen):
            chosen.append(name)
    return [
        CaptionColumn(
            name,
            "zh" if sum(map(_is_chinese, texts.values())) > len(texts) / 2 else "en",
            len(texts) / len(samples),
            sum(map(_is_other_script, texts.values())) / len(texts),
        )
        for name in chosen
        if (texts := by_column[name])
    ]


def columns_not_taken(samples: Sequence[Sample], taken: Sequence[CaptionColumn]) -> list[str]:
    """Returns the other columns that hold sentences, but for those whose texts a taken column has."""
    by_column = _text_columns(samples)
    known = [by_column[column.name] for column in taken]
    return [
        name
        for name, texts in by_column.items()
        if _has_sentences(texts) and not any(_are_alike(texts, others) for others in known)
    ]


def texts_of(samples: Sequence[Sample], column: str) -> list[str]:
    """Returns the texts of a column, or of the text files beside the pictures for `txt`."""
    return list(_texts_by_column(samples).get(column, {}).values())


def _text_columns(samples: Sequence[Sample]) -> dict[str, dict[int, str]]:
    """The columns that may hold captions: with texts in enough of the samples, and a name that does not deny it."""
    return {
        name: texts
        for name, texts in _texts_by_column(samples).items()
        if name.lower() not in NO_CAPTIONS and len(texts) >= LEAST_FILLED * len(samples)
    }


def _texts_by_column(samples: Sequence[Sample]) -> dict[str, dict[int, str]]:
    """Texts that are not blank, by column and by the sample's number. Of a list of texts, the first counts."""
    found: dict[str, dict[int, str]] = {}
    for number, sample in enumerate(samples):
        beside: dict[str, Any] = {TEXT_COLUMN: sample.text} if sample.text else {}
        for name, value in (sample.metadata | beside).items():
            first = value[0] if isinstance(value, list) and value else value
            if isinstance(first, str) and first.strip():
                found.setdefault(name, {})[number] = first.strip()
    return found


def _says_caption(name: str) -> bool:
    return name == TEXT_COLUMN or any(part in name for part in LIKELY) or name.split("_")[-1] in LANGUAGE_NAMES


def _is_language(texts: dict[int, str]) -> bool:
    """False for columns of addresses, numbers and names of files."""
    like = [text for text in texts.values() if "://" not in text and any(map(str.isalpha, text))]
    return len(like) > len(texts) / 2


def _has_sentences(texts: dict[int, str]) -> bool:
    words = median(len(text.split()) for text in texts.values())
    return _is_language(texts) and (words >= LEAST_WORDS or sum(map(_is_chinese, texts.values())) > len(texts) / 2)


def _are_alike(texts: dict[int, str], others: dict[int, str]) -> bool:
    shared = texts.keys() & others.keys()
    return bool(shared) and sum(texts[each] == others[each] for each in shared) >= LEAST_ALIKE * len(shared)


def _is_chinese(text: str) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    chinese = sum(CHINESE[0] <= letter <= CHINESE[1] for letter in letters)
    return 2 * chinese > len(letters) and not _is_other_script(text)


def _is_other_script(text: str) -> bool:
    """True if at least a fifth of the letters are of a script that neither English nor Chinese has."""
    letters = [letter for letter in text if letter.isalpha()]
    other = sum(any(first <= letter <= last for first, last in OTHER_SCRIPTS) for letter in letters)
    return bool(letters) and 5 * other >= len(letters)
