"""Collation: turns packed rows of sequences into the arrays of one micro-step, without torch.

A row holds all its text, then all its pictures, independent of their order in the samples. So both experts work on
contiguous slices, and the attention mask follows from the places.

Shape letters: B rows, Tt and Tv positions of a row's text and visual stream, L labels.
"""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.architecture.mask_blocks import PADDING_SAMPLE, BlockArrays, PlaceArrays, block_arrays
from pipeline.config.tasks import Kind
from pipeline.config.vocabulary import JointVocabulary
from pipeline.data.batch_work import BatchWork, batch_work, is_code, positions_and_pairs, visual_positions
from pipeline.data.sequences import Sequence


@dataclass(frozen=True)
class LabelArrays:
    """Labels of one modality of a micro-batch.

    Attributes:
        index: int64 [L], positions in the flattened [B, Tt + Tv].
        ids: int64 [L], the joint ids to predict.
        weights: float32 [L], the weight of each label in the loss.
        tasks: int64 [L], `Task` values.
    """

    index: np.ndarray
    ids: np.ndarray
    weights: np.ndarray
    tasks: np.ndarray


@dataclass(frozen=True)
class StreamArrays:
    """One modality of the packed rows: joint ids and rotary positions, int64 [B, T], and their places."""

    ids: np.ndarray
    positions: np.ndarray
    places: PlaceArrays


@dataclass(frozen=True)
class BatchArrays:
    """One rank's part of one micro-step. `text_labels` are text ids and openers; `code_labels` are codes. `blocks` are
    those of each of its `attentions`, for FlexAttention; empty if it trains with another one."""

    kind: Kind
    text: StreamArrays
    visual: StreamArrays
    text_labels: LabelArrays
    code_labels: LabelArrays
    work: BatchWork
    blocks: tuple[BlockArrays, ...] = ()

    @property
    def attentions(self) -> list[tuple[PlaceArrays, PlaceArrays]]:
        """Queries and keys of each attention of a layer: that of the whole row, or, where the text comes first, that of
        the pictures and that of the text alone."""
        text, visual = self.text.places, self.visual.places
        everything = text.followed_by(visual)
        return [(visual, everything), (text, text)] if self.kind.has_text_prefix else [(everything, everything)]


def collate_arrays(
    kind: Kind,
    rows: list[list[Sequence]],
    vocabulary: JointVocabulary,
    task_weights: list[float],
    row_multiple: int = 64,
    with_blocks: bool = False,
) -> BatchArrays:
    """Packs rows of sequences of one kind.

    Args:
        kind: the kind of all sequences.
        rows: for each row its sequences, in order.
        vocabulary: the joint id layout.
        task_weights: weight of one label of each `Task` in the loss, by the task's value.
        row_multiple: each stream is padded to the longest of its rows, rounded up to a multiple of this.
        with_blocks: also find the blocks that FlexAttention needs.
    """
    assert all(sequence.kind is kind for row in rows for sequence in row)
    text, visual = _Packer(len(rows), row_multiple), _Packer(len(rows), row_multiple)
    labels = []
    counts = np.zeros(4, np.int64)
    for row, sequences in enumerate(rows):
        for sample, sequence in enumerate(sequences):
            is_visual = visual_positions(sequence, vocabulary)
            positions = np.empty(len(is_visual), np.int64)  # in the row's stream
            for packer, chosen in ((text, ~is_visual), (visual, is_visual)):
                positions[chosen] = packer.add(
                    row, sequence.ids[: sequence.num_run][chosen], np.nonzero(chosen)[0], sequence, sample
                )
            at = sequence.label_positions
            labels.append((row, positions[at], is_visual[at], sequence.label_ids, sequence.label_tasks))
            counts += positions_and_pairs(sequence, is_visual)

    row_length = text.length + visual.length
    index = np.concatenate([row * row_length + text.length * above + at for row, at, above, _, _ in labels])
    ids = np.concatenate([label_ids for *_, label_ids, _ in labels])
    tasks = np.concatenate([label_tasks for *_, label_tasks in labels])
    of_code = is_code(ids, vocabulary)
    batch = BatchArrays(
        kind=kind,
        text=text.padded(0),
        visual=visual.padded(vocabulary.code_offset),
        text_labels=_labels(index, ids, tasks, task_weights, ~of_code),
        code_labels=_labels(index, ids, tasks, task_weights, of_code),
        work=batch_work(counts, len(rows) * row_length),
    )
    return replace(batch, blocks=tuple(block_arrays(*each) for each in batch.attentions)) if with_blocks else batch


class _Packer:
    """Rows of one stream that grow sample by sample."""

    def __init__(self, num_rows: int, row_multiple: int) -> None:
        self._row_multiple = row_multiple
        self._rows: list[list[tuple[np.ndarray, ...]]] = [[] for _ in range(num_rows)]
        self._filled = [0] * num_rows

    def add(self, row: int, ids: np.ndarray, positions: np.ndarray, sequence: Sequence, sample: int) -> np.ndarray:
        """Appends the ids at `positions` of a sample, and returns their positions in the row."""
        start, count = self._filled[row], len(ids)
        self._rows[row].append((ids, positions, np.full(count, sample), sequence.groups[positions]))
        self._filled[row] += count
        return np.arange(start, start + count)

    @property
    def length(self) -> int:
        """The padded length of all rows."""
        return -(-max(1, *self._filled) // self._row_multiple) * self._row_multiple

    def padded(self, padding_id: int) -> StreamArrays:
        """The rows as the stream's arrays."""
        shape = (len(self._rows), self.length)
        columns = [np.full(shape, value, np.int64) for value in (padding_id, 0, PADDING_SAMPLE, 0)]
        for row, parts in enumerate(self._rows):
            for column, pieces in zip(columns, zip(*parts, strict=True), strict=False):
                joined = np.concatenate(pieces)
                column[row, : len(joined)] = joined
        ids, positions, samples, groups = columns
        return StreamArrays(ids, positions, PlaceArrays(samples, groups))


def _labels(
    index: np.ndarray, ids: np.ndarray, tasks: np.ndarray, task_weights: list[float], chosen: np.ndarray
) -> LabelArrays:
    weights = np.asarray(task_weights, np.float32)[tasks[chosen]]
    return LabelArrays(index[chosen], ids[chosen], weights, tasks[chosen])
