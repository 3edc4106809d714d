"""The tensors of one micro-step, made of its arrays; see `batch_arrays`."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.architecture.mask_blocks import BlockArrays, PlaceArrays
from pipeline.architecture.masks import MaskBlocks, PackedPositions
from pipeline.config.tasks import Kind
from pipeline.config.vocabulary import JointVocabulary
from pipeline.data.batch_arrays import BatchArrays, LabelArrays, StreamArrays, collate_arrays
from pipeline.data.batch_work import BatchWork
from pipeline.data.sequences import Sequence


@dataclass(frozen=True)
class Labels:
    """`LabelArrays` as tensors."""

    index: Tensor
    ids: Tensor
    weights: Tensor
    tasks: Tensor


@dataclass(frozen=True)
class Stream:
    """`StreamArrays` as tensors."""

    ids: Tensor
    positions: Tensor
    places: PackedPositions


@dataclass(frozen=True)
class MicroBatch:
    """`BatchArrays` as tensors."""

    kind: Kind
    text: Stream
    visual: Stream
    text_labels: Labels
    code_labels: Labels
    work: BatchWork
    blocks: tuple[MaskBlocks, ...] = ()

    @property
    def attentions(self) -> list[tuple[PackedPositions, PackedPositions]]:
        """See `BatchArrays.attentions`."""
        text, visual = self.text.places, self.visual.places
        everything = text.followed_by(visual)
        return [(visual, everything), (text, text)] if self.kind.has_text_prefix else [(everything, everything)]

    @property
    def num_text_labels(self) -> int:
        """Labels that are text ids or openers."""
        return len(self.text_labels.index)

    @property
    def num_code_labels(self) -> int:
        """Labels that are codes."""
        return len(self.code_labels.index)

    def to(self, device: torch.device) -> "MicroBatch":
        """Copies the batch to another device. From pinned memory the host does not wait for the copy."""
        moved: MicroBatch = _map(self, lambda tensor: tensor.to(device, non_blocking=True))
        return moved

    def pinned(self) -> "MicroBatch":
        """Copies the batch to pinned memory, from which a GPU can copy asynchronously."""
        moved: MicroBatch = _map(self, Tensor.pin_memory)
        return moved


def collate(
    kind: Kind,
    rows: list[list[Sequence]],
    vocabulary: JointVocabulary,
    task_weights: list[float],
    row_multiple: int = 64,
    with_blocks: bool = False,
) -> MicroBatch:
    """Packs rows of sequences of one kind; see `collate_arrays`."""
    return as_tensors(collate_arrays(kind, rows, vocabulary, task_weights, row_multiple, with_blocks))


def as_tensors(batch: BatchArrays) -> MicroBatch:
    """The batch with the same memory as tensors."""
    made: MicroBatch = _made(batch)
    return made


TENSORS_OF: dict[type, type] = {
    BatchArrays: MicroBatch,
    StreamArrays: Stream,
    LabelArrays: Labels,
    PlaceArrays: PackedPositions,
    BlockArrays: MaskBlocks,
}


def _made(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, tuple):
        return tuple(map(_made, value))
    if made := TENSORS_OF.get(type(value)):
        return made(**{field.name: _made(getattr(value, field.name)) for field in fields(value)})
    return value


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Applies `function` to every tensor of nested dataclasses and tuples."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_map(each, function) for each in value)
    if isinstance(value, Labels | Stream | PackedPositions | MaskBlocks | MicroBatch):
        return replace(value, **{field.name: _map(getattr(value, field.name), function) for field in fields(value)})
    return value
