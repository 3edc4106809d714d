"""Parts of steps that one node plans for another, and how they are sent: JSON, and the arrays as they are in memory."""

import json
import threading
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.config.tasks import Kind
from pipeline.data.packed_step import StepPart
from pipeline.data.sample_plan import SamplePlan

if TYPE_CHECKING:
    from pipeline.data.batch_plan import StagePlan


class Planner(Protocol):
    """Plans steps for all nodes."""

    def part(self, step: int, ranks: tuple[int, ...]) -> StepPart:
        """What these ranks train on in a step."""
        ...


class PartPlanner:
    """Plans a step once for all nodes that ask for their parts. It may be used in several threads.

    Args:
        plan: plans the steps. Nothing else may use it.
        world_size: number of all ranks.
        held_steps: whole steps that are kept for those who have not asked yet, about 200 bytes a sample.
    """

    def __init__(self, plan: "StagePlan", world_size: int, held_steps: int = 2) -> None:
        self._lock = threading.Lock()
        self._packed = lru_cache(held_steps)(lambda step: plan.pack(step, world_size))

    def part(self, step: int, ranks: tuple[int, ...]) -> StepPart:
        """What these ranks train on in a step."""
        with self._lock:  # many nodes ask for a step at once
            packed = self._packed(step)
        return packed.part(ranks)


def to_message(part: StepPart) -> bytes:
    """The part as bytes: a line of JSON, and an int64 array with a line for each sample."""
    planned = [getattr(part.planned, field.name) for field in fields(SamplePlan)]
    values = np.column_stack([part.numbers, part.samples, *planned]).astype(np.int64)
    kinds = [
        [kind.value, [[rank, [[row.tolist() for row in rows] for rows in by_rank[rank]]] for rank in by_rank]]
        for kind, by_rank in part.kinds
    ]
    head = [len(part.numbers), kinds, part.num_samples, part.samples_sha256, part.label_counts.tolist()]
    return json.dumps(head).encode() + b"\n" + values.tobytes()


def from_message(message: bytes) -> StepPart:
    """The part of which `to_message` made the bytes."""
    head, _, body = message.partition(b"\n")
    count, kinds, num_samples, samples_sha256, label_counts = json.loads(head)
    values = np.frombuffer(body, np.int64).reshape(count, -1)
    numbers, samples, others = values[:, 0], values[:, 1:4], values[:, 4:]
    by_kind = [(Kind(kind), {rank: _micro_steps(rows) for rank, rows in by_rank}) for kind, by_rank in kinds]
    return StepPart(
        numbers,
        samples,
        _planned(others, len(label_counts)),
        by_kind,
        num_samples,
        samples_sha256,
        np.array(label_counts, np.int64),
    )


def _micro_steps(rows: list[list[list[int]]]) -> list[list[np.ndarray]]:
    return [[np.array(row, np.int64) for row in micro_step] for micro_step in rows]


def _planned(values: np.ndarray, num_tasks: int) -> SamplePlan:
    """The plan of samples from its columns: each field has one, and `labels` one for each task."""
    columns, start = dict[str, np.ndarray](), 0
    for field in fields(SamplePlan):
        width = num_tasks if field.name == "labels" else 1
        column = values[:, start : start + width]
        columns[field.name] = column if field.name == "labels" else column[:, 0]
        start += width
    for name in ("without_codes", "without_instruction"):
        columns[name] = columns[name].astype(bool)
    return SamplePlan(**columns)
