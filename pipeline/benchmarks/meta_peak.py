"""Counts the memory of a micro-step at full size, on torch's `meta` device, whose tensors have sizes and no content.

The real model and objective run forward and backward; what torch allocates is added up, and taken off when it is freed.
FlexAttention cannot run there: a function takes its place that keeps the same tensors.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.architecture.mars_config import MarsConfig
from pipeline.config.model_sizes import ModelSizes
from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind, Task
from pipeline.config.zero import ZeroConfig
from pipeline.data.collate import MicroBatch, collate
from pipeline.data.sequences import SampleParts, SequenceBuilder
from pipeline.model.mars import MarsForCausalLM
from pipeline.planning.memory import RowShape, activation_bytes, head_bytes, layer_backward_bytes
from pipeline.planning.recipe_plan import RecipePlan
from pipeline.planning.work import KindWork, SampleLengths
from pipeline.runtime.torch_private import DispatchMode, storage_key, tensors_in
from pipeline.training.objective import Objective

META = torch.device("meta")


@dataclass(frozen=True)
class PeakCount:
    """Bytes of a micro-step's fullest moment besides weights: counted, and planned."""

    counted: int
    planned: int

    @property
    def ratio(self) -> float:
        return self.counted / self.planned


class LiveBytes(DispatchMode):
    """Adds up the bytes of the tensors that are made inside and still live, and keeps the maximum as `peak`."""

    def __init__(self, besides: list[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = {storage_key(tensor.untyped_storage()): 0 for tensor in besides}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            storage = tensor.untyped_storage()
            if storage_key(storage) not in self._seen:
                self._seen[storage_key(storage)] = storage.nbytes()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._forget, storage_key(storage))
        self.peak = max(self.peak, self.live)
        return result

    def _forget(self, key: int) -> None:
        self.live -= self._seen.pop(key, 0)


class _FusedAttention(torch.autograd.Function):
    """Keeps what FlexAttention keeps: queries, keys, values, its output, and one float32 statistic a head and query."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        batch, heads, length, head_dim = queries.shape
        output = queries.new_empty(batch, length, heads, head_dim).transpose(1, 2)
        statistics = torch.empty(batch, heads, length, device=queries.device)
        ctx.save_for_backward(queries, keys, values, output, statistics)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values, *_ = ctx.saved_tensors
        return torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)


@contextmanager
def fused_attention() -> Iterator[str]:
    """Yields the name under which models find it."""
    name = "counted_attention"

    def attend(module: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> Any:
        return _FusedAttention.apply(queries, keys, values).transpose(1, 2).contiguous(), None

    ALL_ATTENTION_FUNCTIONS[name] = attend
    try:
        yield name
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]


def count_peak(
    config: MarsConfig, sizes: ModelSizes, stage: StageConfig, zero: ZeroConfig, batches: list[MicroBatch]
) -> PeakCount:
    """Counts the peak of one micro-step, and returns what the memory plan has for the same.

    The gradients of trained weights are freed as they are complete, as ZeRO does when it has reduced them.
    """
    with fused_attention() as attention:
        with META:
            made: MarsForCausalLM = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, zero.dtype))
        model = made.freeze_language_expert().train()
        model.set_attn_implementation(attention)
        if stage.checkpoint_every_layers:
            model.model.checkpoint_every = stage.checkpoint_every_layers
            model.gradient_checkpointing_enable()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda trained: setattr(trained, "grad", None))
        objective = Objective(model.keep_frozen_whole(), stage.normalisation)
        on_meta = [batch.to(META) for batch in batches]
        with LiveBytes([*model.parameters(), *model.buffers()]) as live:
            objective(on_meta).loss.backward()
    shapes = [_shape_of(batch) for batch in batches]
    head = head_bytes(sizes, stage, zero.dtype, shapes, use_gpu=False)
    layer = layer_backward_bytes(sizes, stage, zero.dtype, shapes)
    return PeakCount(live.peak, activation_bytes(sizes, stage, zero.dtype, shapes) + max(head, layer))


def _shape_of(batch: MicroBatch) -> RowShape:
    (rows, text), visual = batch.text.ids.shape, batch.visual.ids.shape[1]
    return RowShape(batch.kind, rows, text, visual, len(batch.text_labels.index) + len(batch.code_labels.index))


def peak_ratio(config: MarsConfig, plan: RecipePlan) -> float:
    """Counts the peak of every set of kinds that a stage's micro-steps may have, with all layers recomputed, half, and
    none. Returns the counted peak over the planned one that is furthest from 1.

    Args:
        config: the sizes at which it is counted; those of `plan` with another number of layers, or the same.
        plan: a recipe's plan.
    """
    sizes = replace(plan.config, num_hidden_layers=config.num_hidden_layers)
    ratios: dict[tuple[Any, ...], float] = {}
    for planned in plan.stages:
        for kinds in _sets(planned.work.kinds):
            for every in (1, 2, 0):
                stage = replace(planned.stage, checkpoint_every_layers=every)
                key = (stage.row_multiple, every, *((kind.kind, kind.rows_per_rank) for kind in kinds))
                if key not in ratios:
                    batches = [_fullest(config, stage, kind, plan.lengths) for kind in kinds]
                    ratios[key] = count_peak(config, sizes, stage, plan.recipe.zero, batches).ratio
    return max(ratios.values(), key=lambda ratio: abs(ratio - 1))


def _sets(kinds: tuple[KindWork, ...]) -> Iterator[tuple[KindWork, ...]]:
    for count in range(1, len(kinds) + 1):
        yield from combinations(kinds, count)


def _fullest(config: MarsConfig, stage: StageConfig, kind: KindWork, lengths: SampleLengths) -> MicroBatch:
    rows = min(stage.micro_batch_size, kind.rows_per_rank)
    return full_rows(config, stage, kind.kind, lengths, rows, max(1, round(kind.samples / kind.rows)))


def full_rows(
    config: MarsConfig, stage: StageConfig, kind: Kind, lengths: SampleLengths, rows: int, samples: int
) -> MicroBatch:
    """A micro-batch of `rows` rows of `samples` samples with mean captions."""
    builder = SequenceBuilder(config.vocabulary, {"en": [0] * 7}, 0)
    codes, high = np.zeros(lengths.num_codes, np.uint16), np.zeros(lengths.num_high_codes, np.uint16)
    parts = SampleParts([1] * lengths.mean_caption_ids, "en", codes, high, group_size=stage.high_resolution_group)
    sample = builder.sample(kind, parts)
    return collate(kind, [[sample] * samples] * rows, config.vocabulary, [1.0] * len(Task), stage.row_multiple)
