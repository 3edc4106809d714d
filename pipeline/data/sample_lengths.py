"""The lengths of samples: all that the plan of a step has to know of them. One entry for each selected row."""

from dataclasses import dataclass

import numpy as np

from pipeline.config.stage import INSTRUCTIONS
from pipeline.data.rows import Row

LANGUAGES = tuple(INSTRUCTIONS)
OTHER = len(LANGUAGES)
"""Stands for a language that no stage can ask for."""


NUM_LENGTHS = len(LANGUAGES) + 7


@dataclass(frozen=True)
class SampleLengths:
    """Lengths of n samples, int32. The properties are columns of `values`.

    Attributes:
        values: what is known of each sample lies together, so that a step's samples are found fast, int32
            [n, `NUM_LENGTHS`].
    """

    values: np.ndarray

    @property
    def caption_ids(self) -> np.ndarray:
        """Text ids of the caption in each of `LANGUAGES` [n, languages]; -1 where there is none."""
        return self.values[:, :-7]

    @property
    def first_ids(self) -> np.ndarray:
        """Text ids of the first caption [n], for pictures without a caption in the language that is asked for."""
        return self.values[:, -7]

    @property
    def first_language(self) -> np.ndarray:
        """Language of the first caption [n]."""
        return self.values[:, -6]

    @property
    def codes(self) -> np.ndarray:
        """Codes of the picture, or of each picture of a document [n]."""
        return self.values[:, -5]

    @property
    def high_codes(self) -> np.ndarray:
        """Codes of the high resolution, 0 where there are none [n]."""
        return self.values[:, -4]

    @property
    def pictures(self) -> np.ndarray:
        """Pictures of an interleaved document, 0 for a single picture [n]."""
        return self.values[:, -3]

    @property
    def document_ids(self) -> np.ndarray:
        """Text ids of a document [n]."""
        return self.values[:, -2]

    @property
    def document_ids_before(self) -> np.ndarray:
        """Text ids of a document before its first picture [n]."""
        return self.values[:, -1]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, samples: np.ndarray) -> "SampleLengths":
        """Those of some samples, by their numbers or a mask."""
        return SampleLengths(self.values[samples])

    @classmethod
    def joined(cls, parts: list["SampleLengths"]) -> "SampleLengths":
        """Those of all parts, in order."""
        return cls(np.concatenate([part.values for part in parts]))

    @classmethod
    def of_columns(cls, captions: np.ndarray, *others: np.ndarray) -> "SampleLengths":
        """Those of whole numbers: `captions` is [n, languages], and `others` has the other properties in order, [n]."""
        return cls(np.column_stack([captions, *others]).astype(np.int32))

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
        return cls.of_columns(captions, *first.T, codes, high, *documents.T)
