"""The loss on held-out rows, by task and language, while a stage trains."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.config.stage import StageConfig
from pipeline.config.tasks import CAPTION_BYTES, KINDS, SHARED_KINDS, Kind, Task
from pipeline.data.batch_plan import StagePlan
from pipeline.data.row_index import SourceRows
from pipeline.data.rows import Row
from pipeline.data.sample_lengths import SampleLengths
from pipeline.data.sample_order import MixedOrder, SampleOrder
from pipeline.data.sequences import SequenceBuilder
from pipeline.data.token_reader import TokenReader
from pipeline.runtime.deepspeed_private import own_module_order
from pipeline.training.engine import Forward

DOCUMENTS = "documents"
NO_NOISE: dict[str, Any] = {traits.noise_setting: 0.0 for traits in KINDS.values() if traits.noise_setting}


@dataclass(frozen=True)
class RowsInMemory:
    """Rows held in memory, with the reading interface of a `TokenReader`'s first shard."""

    rows: list[Row]

    def row(self, shard: int, index: int) -> Row:
        assert shard == 0
        return self.rows[index]

    def lengths(self, shards: np.ndarray, indices: np.ndarray) -> SampleLengths:
        return SampleLengths.of_rows([self.rows[index] for index in indices.tolist()])

    def sample_ids(self, shards: np.ndarray, indices: np.ndarray) -> list[str]:
        return [self.rows[index].sample_id for index in indices.tolist()]

    def ahead(self, shards: list[int]) -> None:
        """Does nothing: the rows are in memory already."""


@dataclass(frozen=True)
class ValidationSet:
    """The held-out samples of one task in one language.

    Attributes:
        name: `task/language`, or `documents`.
        kind: kind of the samples.
        plan: a plan whose step 0 has every row once.
        num_bytes: UTF-8 bytes of the captions.
    """

    name: str
    kind: Kind
    plan: StagePlan
    num_bytes: int


def validation_sets(
    stage: StageConfig, stage_number: int, held_out: tuple[SourceRows, ...], builder: SequenceBuilder
) -> list[ValidationSet]:
    """Returns the sets to measure.

    They are each of the stage's tasks in each of its languages, over the first `validation_rows` held-out rows of each
    source that have a caption in it, and the documents among those rows.
    """
    rows = [row for source in held_out for row in _first_rows(source, stage.validation_rows)]
    documents = [row for row in rows if row.document is not None]
    found = []
    if documents:
        found.append(ValidationSet(DOCUMENTS, Kind.INTERLEAVED, _plan(stage, stage_number, documents, builder), 0))
    for task, kind in SHARED_KINDS.items():
        if not stage.task_shares.get(task):
            continue
        for language in stage.language_shares:
            able = [row for row in rows if row.document is None and language in (c.language for c in row.captions)]
            if kind.traits.needs_high_codes:
                able = [row for row in able if row.high_codes is not None]
            if not able:
                continue
            task_alone = replace(
                stage,
                task_shares={task: 1.0},
                language_shares={language: 1.0},
                guidance_dropout=0.0,
                caption_crop=0.0,
                **NO_NOISE,
            )
            num_bytes = sum(next(c.num_bytes for c in row.captions if c.language == language) for row in able)
            plan = _plan(task_alone, stage_number, able, builder)
            found.append(ValidationSet(f"{task}/{language}", kind, plan, num_bytes))
    return found


@torch.no_grad()
def validate(engine: Forward, sets: list[ValidationSet], device: torch.device) -> dict[str, float]:
    """Measures all sets. Every rank calls it and gets the same figures.

    Returns:
        `NAME/bits_a_code` for tasks that predict codes, `NAME/bits_a_caption_byte` for captioning (bits of the caption
        and its end id, divided by the caption's bytes), and `documents/bits_a_text_id`.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()

    def of_all_ranks(each: ValidationSet) -> Tensor:
        nats = _nats(engine, each, rank, world_size, device)
        dist.all_reduce(nats)
        return nats

    engine.eval()
    with own_module_order(engine):
        figures = _figures(sets, of_all_ranks)
    engine.train()
    return figures


@torch.no_grad()
def validate_alone(
    objective: Forward, sets: list[ValidationSet], device: torch.device, world_size: int
) -> dict[str, float]:
    """Measures all sets in one process that holds the whole model.

    Returns:
        The figures of `validate` on `world_size` ranks. They are the same for up to two ranks; the sums of more may be
        added in another order there.
    """
    objective.eval()

    def of_each_rank(each: ValidationSet) -> Tensor:
        nats = torch.zeros(len(Task), device=device)
        for rank in range(world_size):
            nats += _nats(objective, each, rank, world_size, device)
        return nats

    return _figures(sets, of_each_rank)


def _nats(objective: Forward, each: ValidationSet, rank: int, world_size: int, device: torch.device) -> Tensor:
    """The cross-entropy of a rank's samples of a set, summed, float32 [tasks]."""
    nats = torch.zeros(len(Task), device=device)
    for batches in each.plan.step(0, rank, world_size).micro_steps:
        nats += objective([batch.to(device) for batch in batches]).task_losses
    return nats


def _figures(sets: list[ValidationSet], summed: Callable[[ValidationSet], Tensor]) -> dict[str, float]:
    figures = {}
    for each in sets:
        bits = (summed(each) / math.log(2)).tolist()
        for name, task, amount in _measures(each, each.plan.step(0, 0, 1).label_counts):
            figures[f"{each.name}/{name}"] = bits[task.value] / amount
    return figures


def _measures(each: ValidationSet, label_counts: np.ndarray) -> list[tuple[str, Task, int]]:
    """Returns the figures of a validation set: each one's name, the task whose bits it counts, and the divisor."""
    return [
        (name, task, each.num_bytes if name == CAPTION_BYTES else int(label_counts[task.value]))
        for name, task in each.kind.traits.measures
    ]


def _first_rows(source: SourceRows, max_rows: int) -> list[Row]:
    reader = TokenReader(source.tokens, source.index, held_shards=1)
    places = [(shard, index) for shard, count in enumerate(source.index.counts) for index in range(count)]
    return [reader.row(shard, index) for shard, index in places[:max_rows]]


def _plan(stage: StageConfig, stage_number: int, rows: list[Row], builder: SequenceBuilder) -> StagePlan:
    order = SampleOrder(np.asarray([len(rows)]), 0, stage_number, 1)
    one_step = replace(stage, global_batch_size=len(rows))
    return StagePlan(one_step, stage_number, 0, MixedOrder([order], [1.0], len(rows)), [RowsInMemory(rows)], builder)
