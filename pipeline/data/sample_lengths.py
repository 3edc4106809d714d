"""The lengths of samples: all that the plan of a step has to know of them. One entry for each selected row."""

from dataclasses import dataclass, fields

import numpy as np

from pipeline.config.stage import INSTRUCTIONS
from pipeline.data.rows import Row

LANGUAGES = tuple(INSTRUCTIONS)
OTHER = len(LANGUAGES)
"""Stands for a language that no stage can ask for."""


@dataclass(frozen=True)
class SampleLengths:
    """Lengths of n samples. All arrays are int64.

    Attributes:
        caption_ids: text ids of the caption in each of `LANGUAGES` [n, languages]; -1 where there is none.
        first_ids, first_language: text ids and language of the first caption [n], for pictures without a caption in
            the language that is asked for.
        codes, high_codes: codes of the picture, or of each picture of a document, and those of the high resolution, 0
            where there are none [n].
        pictures: pictures of an interleaved document, 0 for a single picture [n].
        document_ids, document_ids_before: text ids of a document, and those before its first picture [n].
    """

    caption_ids: np.ndarray
    first_ids: np.ndarray
    first_language: np.ndarray
    codes: np.ndarray
    high_codes: np.ndarray
    pictures: np.ndarray
    document_ids: np.ndarray
    document_ids_before: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, samples: np.ndarray) -> "SampleLengths":
        """Those of some samples, by their numbers or a mask."""
        return SampleLengths(*(getattr(self, each.name)[samples] for each in fields(self)))

    @classmethod
    def joined(cls, parts: list["SampleLengths"]) -> "SampleLengths":
        """Those of all parts, in order."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    @classmethod
    def of_rows(cls, rows: list[Row]) -> "SampleLengths":
        """Those of rows that were read."""
        captions = np.full((len(rows), len(LANGUAGES)), -1, np.int64)
        first = np.tile([0, OTHER], (len(rows), 1))
        documents = np.zeros((len(rows), 3), np.int64)
        for number, row in enumerate(rows):
            for caption in reversed(row.captions):
                language = LANGUAGES.index(caption.language) if caption.language in LANGUAGES else OTHER
                first[number] = len(caption.ids), language
                if language != OTHER:
                    captions[number, language] = len(caption.ids)
            if row.document is not None:
                is_text = [isinstance(part, list) for part in row.document]
                text = [len(part) if of_text else 0 for part, of_text in zip(row.document, is_text, strict=True)]
                documents[number] = is_text.count(False), sum(text), text[0]
        codes = np.array([len(row.codes) for row in rows], np.int64)
        high = np.array([0 if row.high_codes is None else len(row.high_codes) for row in rows], np.int64)
        (first_ids, first_language), (pictures, ids, before) = first.T, documents.T
        return cls(captions, first_ids, first_language, codes, high, pictures, ids, before)
