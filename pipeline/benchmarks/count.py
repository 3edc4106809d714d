"""Counts what a training step costs besides its arithmetic, without a GPU and without a network.

The real code runs as rank 0 of torch's `fake` process group, whose collectives return at once. The model has the
recipe's layers, but is narrow, so that the time is that of the host: Python, DeepSpeed's hooks, and launching. Numbers
of elements in DeepSpeed's settings are scaled by the same factor. T is the size of the trained weights.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from transformers import AutoModelForCausalLM

from pipeline.architecture.mars_config import MarsConfig
from pipeline.benchmarks.collectives import CollectiveCounter, Volume
from pipeline.benchmarks.loader_cost import loader_cost
from pipeline.benchmarks.meta_peak import peak_ratio
from pipeline.config.benchmarks import CountSettings
from pipeline.config.recipe import Recipe
from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind, Task
from pipeline.config.zero import ZeroConfig
from pipeline.data.collate import MicroBatch, collate
from pipeline.data.sequences import SampleParts, SequenceBuilder
from pipeline.errors import UsageError
from pipeline.generation.pictures import PictureGenerator
from pipeline.generation.sampling import GREEDY
from pipeline.model.mars import MarsForCausalLM
from pipeline.planning.recipe_plan import RecipePlan, plan_recipe
from pipeline.planning.work import StageWork
from pipeline.runtime.deepspeed_private import kept_gathered, own_module_order, whole_shape
from pipeline.runtime.rank import Rank
from pipeline.runtime.terminal import say
from pipeline.runtime.torch_private import join_fake_group
from pipeline.training.engine import Engine, accumulate, make_engine
from pipeline.training.garbage_collection import collected_between_steps
from pipeline.training.objective import Objective
from pipeline.training.process import set_up_process

HIDDEN, HEADS, INTERMEDIATE, TEXT_VOCAB, CODEBOOK = 64, 4, 176, 512, 256
CAPTION_IDS, NUM_CODES, NUM_HIGH, GROUP = 4, 16, 64, 16
FIRST_KINDS = (Kind.TEXT_TO_IMAGE, Kind.CAPTIONING)
"""Kinds of the timed micro-step."""
ROUNDS, SETTLE = 10, 3
"""Timed repetitions, and steps before anything is counted: DeepSpeed records the order of modules first."""


@dataclass(frozen=True)
class StageCount:
    """The volume of one stage's steps.

    Attributes:
        micro_steps: kinds of each micro-step of a step.
        step: an ordinary step.
        after_validation, after_drawing: the step after each.
        ideal: bytes of a step under ZeRO-3 whose micro-steps gather each partitioned weight once for each pass that
            uses it, and reduce each gradient once.
    """

    micro_steps: list[list[Kind]]
    step: Volume
    after_validation: Volume
    after_drawing: Volume
    ideal: float

    @property
    def over_ideal(self) -> float:
        """The largest of the volumes over the ideal."""
        return max(each.gathered + each.reduced for each in (self.step, self.after_validation, self.after_drawing)) / (
            self.ideal
        )


def benchmark_counts(settings: CountSettings, recipe: Recipe) -> dict[str, Any]:
    """Counts one step of each stage of the recipe on `settings.ranks` ranks.

    Raises:
        UsageError: the recipe has no stages, or they do not suit so many ranks.
    """
    if not recipe.stages:
        raise UsageError(f"recipe {recipe.name!r} has no stages")
    scaling = replace(recipe.scaling, num_workers=settings.ranks)
    recipe = replace(recipe, scaling=scaling, plan=replace(recipe.plan, budget_gpu_days=()))
    plan = plan_recipe(recipe, list(range(1, len(recipe.stages) + 1)))
    config = narrow_config(settings.layers or plan.config.num_hidden_layers)
    # Where all ranks are on one machine, DeepSpeed would wait for the memory that they share.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so narrow a model gains nothing from more
    set_up_process(Rank(0, settings.ranks, 0, min(settings.ranks_per_node, settings.ranks - 1)), torch.device("cpu"))
    join_fake_group(settings.ranks)
    try:
        plain = _plain_micro_step(config, recipe.stages[0])
        counts: list[StageCount] = []
        plain_s = host_s = 0.0
        drawing = Volume()
        for planned in plan.stages:
            bench = _Bench.make(config, planned.stage, recipe.zero, plan.config.hidden_size)
            if not counts:
                plain_s, host_s = _least_seconds(plain, bench.timed_micro_step(), then=bench.engine.step)
                say(f"count: a micro-step takes {plain_s:.3f} s of CPU in plain torch, {host_s:.3f} s on rank 0")
            count, drawn = bench.count(_sequence(planned.work), settings.ranks_per_node)
            counts.append(count)
            drawing = max(drawing, drawn, key=lambda volume: volume.gathered)
            say(f"count: stage {planned.number}: {count.step.calls} collectives a step")
            trained = bench.trained_bytes
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)
    loader = loader_cost(plan, settings.ranks)
    first = counts[0]
    over = [round(count.over_ideal, 4) for count in counts] if recipe.zero.zero_stage == 3 else []
    return {
        "recipe": recipe.name,
        "ranks": settings.ranks,
        "ranks_per_node": settings.ranks_per_node,
        "layers": config.num_hidden_layers,
        "plain_s": plain_s,
        "host_s": host_s,
        "host_over_plain": host_s / plain_s,
        "calls_a_micro_step": first.step.calls / len(first.micro_steps),
        "gathered_t_a_step": first.step.gathered / trained,
        "between_nodes_t_a_step": first.step.gathered_between_nodes / trained,
        "volume_over_ideal": max(over) if over else None,
        "volume_over_ideal_by_stage": over,
        "drawing_t": drawing.gathered / trained,
        "loader_cost": loader.share if loader else None,
        "loader_process_s": loader.process_s if loader else None,
        "counted_over_planned_peak": _peak_ratio(plan, config.num_hidden_layers),
    }


def _peak_ratio(plan: RecipePlan, layers: int) -> float:
    """At full width, which costs nothing on torch's meta device."""
    say("count: memory of every set of kinds")
    return peak_ratio(MarsConfig(**asdict(replace(plan.config, num_hidden_layers=layers))), plan)


def narrow_config(layers: int) -> MarsConfig:
    """The sizes of the narrow model that is counted."""
    return MarsConfig(
        text_vocab_size=TEXT_VOCAB,
        codebook_size=CODEBOOK,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
    )


def _sequence(work: StageWork) -> list[list[Kind]]:
    """The kinds of each micro-step of a step."""
    return [[kind.kind for kind in work.kinds if kind.micro_steps > n] for n in range(work.grad_accum_steps)]


def _plain_micro_step(config: MarsConfig, stage: StageConfig) -> Callable[[], object]:
    """A micro-step in plain torch."""
    objective = Objective(_model(config, stage, whole=False))
    batches = [_batch(config, kind) for kind in FIRST_KINDS]
    return lambda: objective(batches).loss.backward()


def _model(config: MarsConfig, stage: StageConfig, whole: bool) -> MarsForCausalLM:
    torch.manual_seed(0)
    model: MarsForCausalLM = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.freeze_language_expert().train()
    if stage.checkpoint_every_layers:
        model.model.checkpoint_every = stage.checkpoint_every_layers
        model.gradient_checkpointing_enable()
    return model.keep_frozen_whole() if whole else model


def _batch(config: MarsConfig, kind: Kind) -> MicroBatch:
    builder = SequenceBuilder(config.vocabulary, {"en": [0] * 7}, 0)
    codes, high = np.zeros(NUM_CODES, np.uint16), np.zeros(NUM_HIGH, np.uint16)
    if kind is Kind.INTERLEAVED:
        sample = builder.interleaved([[1] * CAPTION_IDS, codes])
    else:
        parts = SampleParts([1] * CAPTION_IDS, "en", codes, high, group_size=GROUP)
        sample = builder.sample(kind, parts)
    return collate(kind, [[sample]], config.vocabulary, [1.0] * len(Task), 8)


def _least_seconds(*runs: Callable[[], object], then: Callable[[], object]) -> list[float]:
    """The least CPU seconds of some repetitions of each of `runs`, which take turns, so that whatever slows the machine
    slows all of them. `then` follows each turn and is not timed. Without garbage collection, as in training."""
    taken: list[list[float]] = [[] for _ in runs]
    with collected_between_steps():
        for number in range(SETTLE + ROUNDS):
            for run, seconds in zip(runs, taken, strict=True):
                started = time.process_time()
                run()
                if number >= SETTLE:
                    seconds.append(time.process_time() - started)
            then()
    return [min(seconds) for seconds in taken]


def _bytes(parameter: nn.Parameter) -> int:
    return math.prod(whole_shape(parameter)) * parameter.element_size()


@dataclass(frozen=True)
class _Bench:
    """An engine around the narrow model."""

    engine: Engine
    config: MarsConfig

    @classmethod
    def make(cls, config: MarsConfig, stage: StageConfig, zero: ZeroConfig, hidden_size: int) -> "_Bench":
        scale = HIDDEN**2 / hidden_size**2
        narrow = replace(
            zero,
            persistence_threshold=max(1, int(zero.persistence_threshold * HIDDEN / hidden_size)),
            max_live_parameters=int(zero.max_live_parameters * scale),
            prefetch_bucket_size=int(zero.prefetch_bucket_size * scale),
            reduce_bucket_size=int(zero.reduce_bucket_size * scale),
        )
        model = _model(config, stage, zero.frozen_whole)
        return cls(make_engine(Objective(model, stage.normalisation), stage, narrow), config)

    @property
    def trained_bytes(self) -> int:
        """Bytes of the trained weights (T)."""
        return sum(_bytes(each) for each in self._parameters if each.requires_grad)

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return list(self.engine.module.parameters())

    def timed_micro_step(self) -> Callable[[], object]:
        """A step's forward and backward pass, without the update, which has to follow: after it, weights come from
        other nodes again, and secondary partitions are made anew."""
        batches = [_batch(self.config, kind) for kind in FIRST_KINDS]
        return lambda: accumulate(self.engine, self.engine(batches).loss, last=True)

    def micro_step(self, kinds: list[Kind], last: bool) -> None:
        batches = [_batch(self.config, kind) for kind in kinds]
        accumulate(self.engine, self.engine(batches).loss, last=last)
        self.engine.step()

    def count(self, sequence: list[list[Kind]], ranks_per_node: int) -> tuple[StageCount, Volume]:
        """Counts a step, one after validation, and one after drawing; and the drawing of a grid itself."""

        def step() -> None:
            for number, kinds in enumerate(sequence, start=1):
                self.micro_step(kinds, last=number == len(sequence))

        for _ in range(SETTLE):
            step()
        with CollectiveCounter(ranks_per_node) as counter:
            step()
            ordinary = counter.take()
            self._validate(sequence[0])
            counter.take()
            step()
            validated = counter.take()
            self._draw()
            drawn = counter.take()
            step()
            after_drawing = counter.take()
        # Layers in both passes; embeddings and the head, whose gradient is ready by then, in the forward pass alone.
        once = sum(map(_bytes, self._parameters))
        again = sum(_bytes(each) for name, each in self.engine.module.named_parameters() if ".layers." in name)
        ideal = len(sequence) * (once + again + self.trained_bytes)
        return StageCount(sequence, ordinary, validated, after_drawing, ideal), drawn

    @torch.no_grad()
    def _validate(self, kinds: list[Kind]) -> None:
        self.engine.eval()
        with own_module_order(self.engine):
            for kind in kinds:
                self.engine([_batch(self.config, kind)])
        self.engine.train()

    @torch.no_grad()
    def _draw(self) -> None:
        self.engine.eval()
        model = self.engine.module.mars
        generator = PictureGenerator(model, 1, CAPTION_IDS, NUM_CODES, GREEDY, None, many_steps=False)
        with own_module_order(self.engine), kept_gathered(self.engine.module.parameters()):
            generator.draw([[1] * CAPTION_IDS], [0])
        self.engine.train()
