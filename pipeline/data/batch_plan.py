"""The plan of a stage: the samples of each step, the same on every rank and for any number of ranks.

A step takes the next `global_batch_size` samples of the order. For each sample, draws from the seed decide its task,
its language, its guidance dropout, the start of its caption, and the caption position of its `Task.PLAIN_TEXT` label.
Samples of one kind are packed into rows, and rows are distributed to the ranks.
"""

from collections import abc
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind, Task
from pipeline.config.vocabulary import Role
from pipeline.data.batch_arrays import BatchArrays, collate_arrays
from pipeline.data.packed_step import PackedStep, StepPart, pack_step
from pipeline.data.rows import Row
from pipeline.data.sample_lengths import LANGUAGES, OTHER, SampleLengths
from pipeline.data.sample_order import MixedOrder, generator
from pipeline.data.sample_plan import SamplePlan, SamplePlanner
from pipeline.data.sequences import SampleParts, Sequence, SequenceBuilder
from pipeline.errors import InputError

if TYPE_CHECKING:  # the process that builds samples does without torch
    from pipeline.data.collate import MicroBatch

DRAW_STREAM, NOISE_STREAM = 1 << 40, 1 << 41
"""Third parts of random keys. In the order's keys this part is a source number, so these are larger than any source."""
NO_CODES = (
    "sample {!r} has no high-resolution codes, which the stage's tasks need; tokenize them, or leave it out with the "
    "stage's `where`"
)
NO_INSTRUCTION = (
    "sample {!r} has no caption in a language of the stage, and the task captioning knows no other; leave it out with "
    "the stage's `where`"
)


class RowReader(Protocol):
    """Returns the rows of one source, as `TokenReader` does."""

    def row(self, shard: int, index: int) -> Row:
        """The `index`-th selected sample of the `shard`-th shard."""
        ...

    def lengths(self, shards: np.ndarray, indices: np.ndarray) -> SampleLengths:
        """The lengths of the `indices`-th selected samples of the `shards`-th shards, int64 [n] each."""
        ...

    def sample_ids(self, shards: np.ndarray, indices: np.ndarray) -> list[str]:
        """The ids of the `indices`-th selected samples of the `shards`-th shards, int64 [n] each."""
        ...

    def ahead(self, shards: list[int]) -> None:
        """Announces that rows of these shards will be read soon."""
        ...


Readers = abc.Sequence[RowReader]
PartSource = abc.Callable[[int, tuple[int, ...], int], StepPart]


@dataclass(frozen=True)
class Step:
    """One optimizer step as one rank sees it.

    Attributes:
        micro_steps: one forward and backward pass each. A micro-step holds a batch of every kind in the step, in the
            same order on all ranks, so that ZeRO-3 sees a repeating sequence of modules and can keep and prefetch
            gathered parameters.
        num_samples: number of samples over all ranks.
        samples_sha256: a hash of which samples all ranks train on, and in which order.
        label_counts: labels of each `Task` over all ranks, int64.
    """

    micro_steps: "list[list[MicroBatch]]"
    num_samples: int
    samples_sha256: str
    label_counts: np.ndarray


@dataclass(frozen=True)
class StepArrays:
    """A `Step` before its arrays become tensors."""

    micro_steps: list[list[BatchArrays]]
    num_samples: int
    samples_sha256: str
    label_counts: np.ndarray

    def as_tensors(self) -> Step:
        """The step with the same memory as tensors."""
        from pipeline.data.collate import as_tensors

        micro_steps = [list(map(as_tensors, batches)) for batches in self.micro_steps]
        return Step(micro_steps, self.num_samples, self.samples_sha256, self.label_counts)


@dataclass(frozen=True)
class StagePlan:
    """The steps of one stage.

    Attributes:
        stage, stage_number, seed: the stage, and the recipe's seed.
        order: the samples' order.
        readers: one for each source, in the order's numbering.
        builder: builds sequences.
        held_parts: steps of which the plan keeps what ranks that share it train on, about a kilobyte a sample.
        part_source: returns what some ranks train on, where this plan does not plan it: by a step, the ranks, and the
            number of all ranks.
    """

    stage: StageConfig
    stage_number: int
    seed: int
    order: MixedOrder
    readers: Readers
    builder: SequenceBuilder
    held_parts: int = 4
    part_source: PartSource | None = None

    def step(self, step: int, rank: int, world_size: int) -> Step:
        """Builds the step's batches for `rank` of `world_size`, and reads the samples of that rank alone.

        Steps count from 0.
        """
        return self.arrays(step, rank, world_size).as_tensors()

    def arrays(self, step: int, rank: int, world_size: int, together: abc.Sequence[int] = ()) -> StepArrays:
        """Builds a step without torch; see `step`. `together` are the ranks that share this plan, if there are others:
        their part is then made once."""
        for reader, shards in zip(self.readers, self.order.near(step), strict=True):
            reader.ahead(shards)
        part = self.part(step, tuple(together) or (rank,), world_size)
        counts = part.label_counts
        weights = [loss_share(self.stage, task, 1.0, max(1, int(counts[task.value]))) for task in Task]
        by_kind = [
            [self._micro_batch(kind, rows, step, part, weights) for rows in by_rank[rank]]
            for kind, by_rank in part.kinds
        ]
        micro_steps = [[batch for batch in batches if batch] for batches in zip_longest(*by_kind)]
        return StepArrays(micro_steps, part.num_samples, part.samples_sha256, counts)

    @cached_property
    def part(self) -> PartSource:
        """What some ranks train on in a step, by its number, the ranks, and the number of all ranks."""
        return lru_cache(self.held_parts)(self.part_source or self._part)

    def _part(self, step: int, ranks: tuple[int, ...], world_size: int) -> StepPart:
        return self.packed(step, world_size).part(ranks)

    @cached_property
    def packed(self) -> abc.Callable[[int, int], PackedStep]:
        """Packs a step, by its number, for a number of ranks. The last one is kept."""
        return lru_cache(1)(self.pack)

    def pack(self, step: int, world_size: int) -> PackedStep:
        """Plans and packs a step for a number of ranks."""
        samples = self.order.step(step)
        return pack_step(samples, self.planned(step, samples), self.stage, world_size)

    def planned(self, step: int, samples: np.ndarray) -> SamplePlan:
        """What the step's samples become; `samples` as of `MixedOrder.step`."""
        size = self.stage.global_batch_size
        random = generator(self.seed, self.stage_number, DRAW_STREAM, step)
        draws = np.column_stack([random.random((size, 3)), random.random(size), random.random(size)])
        lengths = SampleLengths.joined(
            [reader.lengths(*samples[samples[:, 0] == source, 1:].T) for source, reader in enumerate(self.readers)]
        )
        planned = self._planner.plan(lengths, draws)
        for refused, problem in ((planned.without_codes, NO_CODES), (planned.without_instruction, NO_INSTRUCTION)):
            for source, shard, index in samples[refused][:1].tolist():
                raise InputError(problem.format(self.readers[source].row(shard, index).sample_id))
        return planned

    def sample_ids(self, steps: abc.Sequence[int]) -> list[list[str]]:
        """The ids of the samples of all ranks in each of some steps, in the order of `MixedOrder`. Reads them all."""
        found = []
        for step in steps:
            samples = self.order.step(step)
            of_sources = [samples[samples[:, 0] == source, 1:] for source in range(len(self.readers))]
            ids = [reader.sample_ids(*of.T) for reader, of in zip(self.readers, of_sources, strict=True)]
            found.append([sample_id for each in ids for sample_id in each])
        return found

    @cached_property
    def _planner(self) -> SamplePlanner:
        return SamplePlanner(self.stage, self.builder)

    def _micro_batch(
        self, kind: Kind, rows: list[np.ndarray], step: int, part: StepPart, weights: list[float]
    ) -> BatchArrays:
        def built(number: int) -> Sequence:
            sample = max(number, ~number)
            place = int(part.numbers.searchsorted(sample))
            source, shard, index = part.samples[place].tolist()
            sequence = self._sequence(self.readers[source].row(shard, index), part.planned, place, (step, sample))
            return sequence if number >= 0 else _without_labels(sequence)

        return collate_arrays(
            kind,
            [[built(number) for number in row.tolist()] for row in rows],
            self.builder.vocabulary,
            weights,
            self.stage.row_multiple,
            with_blocks=self.stage.attention == "flex_attention",
        )

    def _sequence(self, row: Row, planned: SamplePlan, number: int, noise_key: tuple[int, int]) -> Sequence:
        """Builds the `number`-th of the planned samples. `noise_key` has the step and the sample's number in it."""
        if row.document is not None:
            return self.builder.interleaved(row.document)
        kind, language = Kind(planned.kinds[number]), int(planned.languages[number])
        wanted = LANGUAGES[language] if language != OTHER else row.captions[0].language
        caption = next(each for each in row.captions if each.language == wanted)
        start, count, plain = (int(each[number]) for each in (planned.starts, planned.counts, planned.plain))
        predicted = row.high_codes if kind.traits.needs_high_codes else row.codes
        assert predicted is not None
        noise = getattr(self.stage, kind.traits.noise_setting) if kind.traits.noise_setting else 0.0
        return self.builder.sample(
            kind,
            SampleParts(
                caption.ids[start : start + count],
                caption.language,
                row.codes,
                row.high_codes,
                self._with_noise(predicted, noise, noise_key),
                plain if plain >= 0 else None,
                Role[self.stage.high_resolution_role.upper()],
                self.stage.high_resolution_group,
            ),
        )

    def _with_noise(self, codes: np.ndarray, most: float, key: tuple[int, int]) -> np.ndarray:
        if not most:
            return codes
        random = generator(self.seed, self.stage_number, NOISE_STREAM, *key)
        replaced = random.random(len(codes)) < random.random() * most
        return np.where(replaced, random.integers(self.builder.vocabulary.codebook_size, size=len(codes)), codes)


def loss_share(stage: StageConfig, task: Task, summed_loss: float, num_labels: int) -> float:
    """A task's part of a step's loss: the weighted mean over the step's labels of that task."""
    return stage.task_weights.get(task.name.lower(), 1.0) * summed_loss / num_labels


def _without_labels(sequence: Sequence) -> Sequence:
    empty, run = np.zeros(0, np.int64), slice(0, sequence.num_run)
    return Sequence(sequence.kind, sequence.ids[run], sequence.groups[run], empty, empty, empty)
