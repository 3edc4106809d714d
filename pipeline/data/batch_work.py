"""The work of samples and micro-batches, counted from their sequences."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.config.tasks import Kind
from pipeline.config.vocabulary import JointVocabulary
from pipeline.data.sequences import Sequence


@dataclass(frozen=True)
class BatchWork:
    """Work of a micro-batch, without padding and without samples that have no labels (fillers).

    It counts positions of both modalities, and pairs of a query and a key that it sees, by the query's modality.
    `padded_tokens` counts all positions of the tensors.
    """

    text_tokens: int
    visual_tokens: int
    text_pairs: int
    visual_pairs: int
    padded_tokens: int

    @property
    def tokens(self) -> int:
        return self.text_tokens + self.visual_tokens


class Counted(Protocol):
    """A real or a planned micro-batch."""

    @property
    def kind(self) -> Kind:
        """The kind of all its samples."""
        ...

    @property
    def work(self) -> BatchWork:
        """Positions and attention pairs of all its samples."""
        ...

    @property
    def num_text_labels(self) -> int:
        """Labels that are text ids or openers."""
        ...

    @property
    def num_code_labels(self) -> int:
        """Labels that are codes."""
        ...


@dataclass(frozen=True)
class CountedSample:
    """A single sample as a micro-batch without padding. See `Counted`."""

    kind: Kind
    work: BatchWork
    num_text_labels: int
    num_code_labels: int


def visual_positions(sequence: Sequence, vocabulary: JointVocabulary) -> np.ndarray:
    """Marks the visual expert's positions among those that are run, bool [num_run]."""
    return sequence.ids[: sequence.num_run] >= vocabulary.text_vocab_size


def positions_and_pairs(sequence: Sequence, is_visual: np.ndarray) -> np.ndarray:
    """Text and visual positions, text and visual pairs of a sample, int64 [4]; zeros for a sample without labels."""
    if not len(sequence.label_positions):
        return np.zeros(4, np.int64)
    visible = sequence.num_visible[: sequence.num_run]
    counts = (~is_visual).sum(), is_visual.sum(), visible[~is_visual].sum(), visible[is_visual].sum()
    return np.asarray(counts, np.int64)


def batch_work(counts: np.ndarray, padded_tokens: int) -> BatchWork:
    """The work of samples whose `positions_and_pairs` sum to `counts`."""
    text_tokens, visual_tokens, text_pairs, visual_pairs = counts.tolist()
    return BatchWork(text_tokens, visual_tokens, text_pairs, visual_pairs, padded_tokens)


def is_code(ids: np.ndarray, vocabulary: JointVocabulary) -> np.ndarray:
    """Marks the joint ids that are codes, bool."""
    return (ids >= vocabulary.code_offset) & (ids < vocabulary.code_offset + vocabulary.codebook_size)


def count_sample(sequence: Sequence, vocabulary: JointVocabulary) -> CountedSample:
    """The work of one sample."""
    counts = positions_and_pairs(sequence, visual_positions(sequence, vocabulary))
    codes = int(is_code(sequence.label_ids, vocabulary).sum())
    return CountedSample(sequence.kind, batch_work(counts, sequence.num_run), len(sequence.label_ids) - codes, codes)
