"""A step whose samples are packed into rows, and whose rows are dealt to the ranks."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind
from pipeline.data.packing import PackedRows, deal_rows, pack_rows
from pipeline.data.sample_plan import SamplePlan


@dataclass(frozen=True)
class PackedKind:
    """The rows of a step's samples of one kind.

    Attributes:
        kind: the kind.
        rows: the samples of each row, by their numbers in the step.
        dealt: for each micro-step the rows of each rank, int64 [ranks, rows].
        filler: stands for the samples of a row that has none: ~n for a sample n whose labels are left out. All ranks
            run both experts in every micro-step.
    """

    kind: Kind
    rows: PackedRows
    dealt: list[np.ndarray]
    filler: int

    def of_rank(self, rank: int) -> list[list[np.ndarray]]:
        """The samples of each row of each of the rank's micro-steps."""
        return [[self._row(row) for row in micro_step[rank]] for micro_step in self.dealt]

    def _row(self, row: int) -> np.ndarray:
        samples: np.ndarray = self.rows[row]
        return samples if len(samples) else np.array([self.filler])


@dataclass(frozen=True)
class PackedStep:
    """A step as all ranks share it.

    Attributes:
        samples: source, shard, and index among the shard's selected rows, of each sample, int64 [n, 3].
        planned: what becomes of each sample.
        kinds: the rows of each kind that the step has.
        samples_sha256: a hash of `samples`.
        label_counts: labels of each `Task` over all samples, int64.
    """

    samples: np.ndarray
    planned: SamplePlan
    kinds: list[PackedKind]
    samples_sha256: str
    label_counts: np.ndarray

    def part(self, ranks: Iterable[int]) -> "StepPart":
        """What these ranks train on."""
        kinds = [(each.kind, {rank: each.of_rank(rank) for rank in ranks}) for each in self.kinds]
        rows = [row for _, by_rank in kinds for micro_steps in by_rank.values() for each in micro_steps for row in each]
        numbers = np.concatenate([np.zeros(0, np.int64), *rows])
        numbers = np.unique(np.maximum(numbers, ~numbers))
        own, planned = self.samples[numbers], self.planned.take(numbers)
        return StepPart(numbers, own, planned, kinds, len(self.samples), self.samples_sha256, self.label_counts)


@dataclass(frozen=True)
class StepPart:
    """A step as some ranks train on it: m of its samples. It is small, however many ranks the step has.

    Attributes:
        numbers: the samples' numbers in the step, ascending, int64 [m].
        samples, planned: of these samples; see `PackedStep`.
        kinds: each kind, and the samples of each row of each of a rank's micro-steps, by rank.
        num_samples, samples_sha256, label_counts: of the whole step.
    """

    numbers: np.ndarray
    samples: np.ndarray
    planned: SamplePlan
    kinds: list[tuple[Kind, dict[int, list[list[np.ndarray]]]]]
    num_samples: int
    samples_sha256: str
    label_counts: np.ndarray


def pack_step(samples: np.ndarray, planned: SamplePlan, stage: StageConfig, world_size: int) -> PackedStep:
    """Packs the samples of each kind into rows for `world_size` ranks."""
    kinds = []
    for kind in Kind:
        of_kind = np.flatnonzero(planned.kinds == kind.value)
        if len(of_kind):
            kinds.append(_pack_kind(kind, of_kind, planned, stage, world_size))
    sha256 = hashlib.sha256(samples.tobytes()).hexdigest()
    return PackedStep(samples, planned, kinds, sha256, planned.labels.sum(axis=0))


def _pack_kind(kind: Kind, of_kind: np.ndarray, planned: SamplePlan, stage: StageConfig, world_size: int) -> PackedKind:
    num_run, costs = planned.num_run[of_kind], planned.costs[of_kind]
    packed = pack_rows(num_run, stage.seq_len, world_size)
    shortest = int(num_run.argmin())
    by_row = packed.sums(costs)
    by_row[np.diff(packed.starts) == 0] = costs[shortest]
    rows = PackedRows(of_kind[packed.samples], packed.starts)
    dealt = deal_rows(by_row, world_size, stage.micro_batch_size)
    return PackedKind(kind, rows, dealt, filler=~int(of_kind[shortest]))
