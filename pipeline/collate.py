"""From packed rows of sequences to the tensors of one micro-step.

Shape letters: B rows, T positions of a row, Tt and Tv those of its text and its visual stream, L labels.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.routing import Routing
from pipeline.sequences import Kind, Sequence
from pipeline.vocabulary import JointVocabulary, State

PADDING_SEGMENT = -1


@dataclass(frozen=True)
class Labels:
    """The labels of one state. `index` counts positions of the flattened hidden states.

    index int64 [L]; rows int64 [L], the label's place among what the state allows; weights float32 [L];
    tasks int64 [L].
    """

    index: Tensor
    rows: Tensor
    weights: Tensor
    tasks: Tensor


@dataclass(frozen=True)
class Stream:
    """Packed ids with their positions, [B, T] int64, and the mask of what each may see, bool [B, 1, T, keys]."""

    ids: Tensor
    positions: Tensor
    mask: Tensor


@dataclass(frozen=True)
class MicroBatch:
    """One rank's part of one micro-step.

    A TEXT_TO_IMAGE batch has a `text` and a `visual` stream; hidden states are those of the text stream for
    `text_labels` and of the visual one for `code_labels`. Any other batch has one `joint` stream and its routing.
    """

    kind: Kind
    text_labels: Labels
    code_labels: Labels
    text: Stream | None = None
    visual: Stream | None = None
    joint: Stream | None = None
    routing: Routing | None = None
    num_tokens: int = 0
    num_padded_tokens: int = 0

    def to(self, device: torch.device) -> "MicroBatch":
        """The same batch on another device."""
        return replace(self, **{field.name: _to(getattr(self, field.name), device) for field in fields(self)})


def collate(
    kind: Kind,
    rows: list[list[Sequence]],
    vocabulary: JointVocabulary,
    task_weights: list[float],
    row_multiple: int = 64,
) -> MicroBatch:
    """Packs rows of sequences of one kind.

    Args:
        kind: the kind of all sequences.
        rows: for each row the sequences in it, one after the other.
        vocabulary: the joint id layout.
        task_weights: what one label of each `Task` weighs in the loss, by the task's value.
        row_multiple: rows are padded to the longest, rounded up to a multiple of this.
    """
    assert all(sequence.kind is kind for row in rows for sequence in row)
    split = kind is Kind.TEXT_TO_IMAGE
    text, visual = _Packer(len(rows), row_multiple), _Packer(len(rows), row_multiple)
    joint = visual
    labels: list[tuple[_Packer, int, int, np.ndarray, Sequence]] = []
    for row, sequences in enumerate(rows):
        for segment, sequence in enumerate(sequences):
            positions = np.arange(len(sequence.ids))
            cut = sequence.num_text_prefix if split else 0
            text_start = text.add(row, sequence.ids[:cut], positions[:cut], segment)
            start = joint.add(row, sequence.ids[cut:], positions[cut:], segment)
            in_text = sequence.label_positions < cut
            labels.append((text, row, text_start, in_text, sequence))
            labels.append((joint, row, start - cut, ~in_text, sequence))

    joint_ids, joint_positions, joint_segments = joint.padded(vocabulary.code_offset if split else 0)
    text_ids, text_positions, text_segments = text.padded(0)
    parts = {State.TEXT: _LabelParts(), State.CODES: _LabelParts()}
    for packer, row, start, chosen, sequence in labels:
        index = row * packer.length + start + sequence.label_positions[chosen]
        ids, tasks = sequence.label_ids[chosen], sequence.label_tasks[chosen]
        is_code = (ids >= vocabulary.code_offset) & (ids < vocabulary.code_offset + vocabulary.codebook_size)
        parts[State.CODES].add(index[is_code], ids[is_code] - vocabulary.code_offset, tasks[is_code])
        parts[State.TEXT].add(index[~is_code], _text_rows(ids[~is_code], vocabulary), tasks[~is_code])

    num_tokens = sum(len(sequence.ids) for row in rows for sequence in row)
    common: dict[str, Any] = dict(
        kind=kind,
        text_labels=parts[State.TEXT].labels(task_weights),
        code_labels=parts[State.CODES].labels(task_weights),
        num_tokens=num_tokens,
        num_padded_tokens=joint_ids.numel() + (text_ids.numel() if split else 0),
    )
    joint_mask = _mask(joint_segments, joint_positions, joint_segments, joint_positions)
    if not split:
        joint_stream = Stream(joint_ids, joint_positions, joint_mask)
        return MicroBatch(joint=joint_stream, routing=Routing.of(joint_ids, vocabulary.text_vocab_size), **common)
    text_mask = _mask(text_segments, text_positions, text_segments, text_positions)
    to_text = _mask(joint_segments, joint_positions, text_segments, text_positions)
    return MicroBatch(
        text=Stream(text_ids, text_positions, text_mask),
        visual=Stream(joint_ids, joint_positions, torch.cat([to_text, joint_mask], dim=-1)),
        **common,
    )


class _Packer:
    """Rows of ids, positions and segment numbers that grow sample by sample."""

    def __init__(self, num_rows: int, row_multiple: int) -> None:
        self._row_multiple = row_multiple
        self._rows: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in range(num_rows)]
        self._filled = [0] * num_rows

    def add(self, row: int, ids: np.ndarray, positions: np.ndarray, segment: int) -> int:
        """Appends one sample's part and returns where in the row it starts."""
        start = self._filled[row]
        self._rows[row].append((ids, positions, np.full(len(ids), segment)))
        self._filled[row] += len(ids)
        return start

    @property
    def length(self) -> int:
        """The padded length of all rows."""
        return -(-max(1, *self._filled) // self._row_multiple) * self._row_multiple

    def padded(self, padding_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, positions and segments, int64 [B, T]. Padding has a segment of its own and sees only itself."""
        shape = (len(self._rows), self.length)
        columns = (np.full(shape, padding_id), np.zeros(shape, np.int64), np.full(shape, PADDING_SEGMENT))
        for row, parts in enumerate(self._rows):
            for column, pieces in zip(columns, zip(*parts, strict=True), strict=False):
                joined = np.concatenate(pieces)
                column[row, : len(joined)] = joined
        ids, positions, segments = (torch.from_numpy(column.astype(np.int64)) for column in columns)
        return ids, positions, segments


class _LabelParts:
    def __init__(self) -> None:
        self._index: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._tasks: list[np.ndarray] = []

    def add(self, index: np.ndarray, rows: np.ndarray, tasks: np.ndarray) -> None:
        self._index.append(index)
        self._rows.append(rows)
        self._tasks.append(tasks)

    def labels(self, task_weights: list[float]) -> Labels:
        index, rows, tasks = (
            np.concatenate(parts).astype(np.int64) for parts in (self._index, self._rows, self._tasks)
        )
        weights = np.asarray(task_weights, np.float32)[tasks]
        return Labels(*(torch.from_numpy(array) for array in (index, rows, weights, tasks)))


def _text_rows(ids: np.ndarray, vocabulary: JointVocabulary) -> np.ndarray:
    """Place of text ids and openers among what State.TEXT allows: the text rows, then the openers."""
    openers = range(vocabulary.num_visual)[vocabulary.allowed(State.TEXT).visual_rows]
    place = {vocabulary.code_offset + row: vocabulary.text_vocab_size + i for i, row in enumerate(openers)}
    return np.asarray([place.get(int(label), int(label)) for label in ids], np.int64)


def _mask(query_segments: Tensor, query_positions: Tensor, key_segments: Tensor, key_positions: Tensor) -> Tensor:
    """Bool [B, 1, queries, keys]: the same sample, and not later. Padding sees padding, so no row is empty."""
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & (key_positions[:, None, :] <= query_positions[:, :, None]))[:, None]


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor | Routing):
        return value.to(device)
    if isinstance(value, Labels | Stream):
        return replace(value, **{field.name: getattr(value, field.name).to(device) for field in fields(value)})
    return value
