"""The plan of a stage: the samples of each step, the same on every rank and for any number of ranks.

A step takes the next `global_batch_size` samples of the order. For each sample, draws from the seed decide its task,
its language, its guidance dropout, the start of its caption, and the caption position of its `Task.PLAIN_TEXT` label.
Samples of one kind are packed into rows, and rows are distributed to the ranks.
"""

from collections import abc
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

import numpy as np

from pipeline.config.stage import StageConfig
from pipeline.config.tasks import SHARED_KINDS, Kind, Task
from pipeline.config.vocabulary import Role
from pipeline.data.collate import MicroBatch, collate
from pipeline.data.packing import deal_rows, pack_rows
from pipeline.data.sample_order import MixedOrder, generator
from pipeline.data.sequences import PLAIN_SHARE, SampleParts, Sequence, SequenceBuilder
from pipeline.data.token_reader import Row
from pipeline.errors import InputError

DRAW_STREAM, NOISE_STREAM = 1 << 40, 1 << 41
"""Third parts of random keys. In the order's keys this part is a source number, so these are larger than any source."""


class RowReader(Protocol):
    """Returns the rows of one source, as `TokenReader` does."""

    def row(self, shard: int, index: int) -> Row:
        """The `index`-th selected sample of the `shard`-th shard."""
        ...

    def ahead(self, shards: list[int]) -> None:
        """Announces that rows of these shards will be read soon."""
        ...


Readers = abc.Sequence[RowReader]


@dataclass(frozen=True)
class Step:
    """One optimizer step as one rank sees it.

    Attributes:
        micro_steps: one forward and backward pass each. A micro-step holds a batch of every kind in the step, in the
            same order on all ranks, so that ZeRO-3 sees a repeating sequence of modules and can keep and prefetch
            gathered parameters.
        num_samples: number of samples over all ranks.
        sample_ids: ids of the samples of all ranks, in the order of `MixedOrder`.
        label_counts: labels of each `Task` over all ranks, int64.
    """

    micro_steps: list[list[MicroBatch]]
    num_samples: int
    sample_ids: list[str]
    label_counts: np.ndarray


@dataclass(frozen=True)
class StagePlan:
    """The steps of one stage. `readers` has one reader per source, in the order's numbering."""

    stage: StageConfig
    stage_number: int
    seed: int
    order: MixedOrder
    readers: Readers
    builder: SequenceBuilder

    def step(self, step: int, rank: int, world_size: int) -> Step:
        """Builds the step's batches for `rank` of `world_size`; `step` counts from 0."""
        size = self.stage.global_batch_size
        random = generator(self.seed, self.stage_number, DRAW_STREAM, step)
        draws = np.column_stack([random.random((size, 3)), random.random(size), random.random(size)])
        for reader, shards in zip(self.readers, self.order.near(step), strict=True):
            reader.ahead(shards)
        rows = [self.readers[source].row(shard, index) for source, shard, index in self.order.step(step)]
        sequences = [
            self._sequence(row, tuple(draw), (step, number))
            for number, (row, draw) in enumerate(zip(rows, draws, strict=True))
        ]
        counts = np.zeros(len(Task), np.int64)
        for sequence in sequences:
            counts += np.bincount(sequence.label_tasks, minlength=len(Task))
        weights = [loss_share(self.stage, task, 1.0, max(1, int(counts[task.value]))) for task in Task]
        by_kind = []
        for kind in Kind:
            of_kind = [sequence for sequence in sequences if sequence.kind is kind]
            if of_kind:
                by_kind.append(self._micro_batches(kind, of_kind, weights, rank, world_size))
        micro_steps = [[batch for batch in batches if batch] for batches in zip_longest(*by_kind)]
        return Step(micro_steps, size, [row.sample_id for row in rows], counts)

    def _sequence(self, row: Row, draws: tuple[float, ...], noise_key: tuple[int, int]) -> Sequence:
        task_draw, language_draw, dropout_draw, plain_draw, crop_draw = draws
        if row.document is not None:
            return self.builder.interleaved(row.document)
        task = _pick(self.stage.task_shares, task_draw)
        kind = SHARED_KINDS[task]
        language = _pick(self.stage.language_shares, language_draw)
        caption = next((caption for caption in row.captions if caption.language == language), row.captions[0])
        caption_ids, plain_position = caption.ids, None
        if not kind.traits.has_instruction:
            caption_ids, plain_position = self._cut(caption.ids, dropout_draw, plain_draw, crop_draw)
        if kind.traits.needs_high_codes and row.high_codes is None:
            raise InputError(
                f"sample {row.sample_id!r} has no high-resolution codes, which task {task} needs; tokenize "
                "them, or leave it out with the stage's `where`"
            )
        predicted = row.high_codes if kind.traits.needs_high_codes else row.codes
        assert predicted is not None
        noise = getattr(self.stage, kind.traits.noise_setting) if kind.traits.noise_setting else 0.0
        return self.builder.sample(
            kind,
            SampleParts(
                caption_ids,
                caption.language,
                row.codes,
                row.high_codes,
                self._with_noise(predicted, noise, noise_key),
                plain_position,
                Role[self.stage.high_resolution_role.upper()],
                self.stage.high_resolution_group,
            ),
        )

    def _cut(
        self, ids: list[int], dropout_draw: float, plain_draw: float, crop_draw: float
    ) -> tuple[list[int], int | None]:
        """Returns the ids that are kept of a caption before a picture, and its plain position."""
        ids = [] if dropout_draw < self.stage.guidance_dropout else ids
        if len(ids) > 1 and crop_draw < self.stage.caption_crop:
            ids = ids[1 + int(crop_draw / self.stage.caption_crop * (len(ids) - 1)) :]
        if len(ids) > 1 and plain_draw < PLAIN_SHARE:
            return ids, int(plain_draw / PLAIN_SHARE * (len(ids) - 1))
        return ids, None

    def _with_noise(self, codes: np.ndarray, most: float, key: tuple[int, int]) -> np.ndarray:
        if not most:
            return codes
        random = generator(self.seed, self.stage_number, NOISE_STREAM, *key)
        replaced = random.random(len(codes)) < random.random() * most
        return np.where(replaced, random.integers(self.builder.vocabulary.codebook_size, size=len(codes)), codes)

    def _micro_batches(
        self, kind: Kind, sequences: list[Sequence], weights: list[float], rank: int, world_size: int
    ) -> list[MicroBatch]:
        packed = pack_rows([sequence.num_run for sequence in sequences], self.stage.seq_len, world_size)
        # All ranks run both experts in every micro-step, so an empty row gets a sample without labels.
        filler = _without_labels(min(sequences, key=lambda sequence: sequence.num_run))
        packed = [row or [len(sequences)] for row in packed]
        sequences = [*sequences, filler]
        costs = [sum(self._cost(sequences[index]) for index in row) for row in packed]
        return [
            collate(
                kind,
                [[sequences[index] for index in row] for row in rows],
                self.builder.vocabulary,
                weights,
                self.stage.row_multiple,
                with_blocks=self.stage.attention == "flex_attention",
            )
            for rows in deal_rows(packed, costs, rank, world_size, self.stage.micro_batch_size)
        ]

    def _cost(self, sequence: Sequence) -> int:
        """FLOP of the sequence's positions, in units of 2N (see `pipeline.planning.flops`)."""
        num_run = sequence.num_run
        num_visual = int((sequence.ids[:num_run] >= self.builder.vocabulary.text_vocab_size).sum())
        return 3 * num_visual + (1 if sequence.kind.has_text_prefix else 2) * (num_run - num_visual)


def loss_share(stage: StageConfig, task: Task, summed_loss: float, num_labels: int) -> float:
    """A task's part of a step's loss: the weighted mean over the step's labels of that task."""
    return stage.task_weights.get(task.name.lower(), 1.0) * summed_loss / num_labels


def _pick(shares: dict[str, float], draw: float) -> str:
    bounds = np.cumsum(list(shares.values()))
    return list(shares)[min(int(np.searchsorted(bounds, draw, side="right")), len(shares) - 1)]


def _without_labels(sequence: Sequence) -> Sequence:
    empty, run = np.zeros(0, np.int64), slice(0, sequence.num_run)
    return Sequence(sequence.kind, sequence.ids[run], sequence.groups[run], empty, empty, empty)
