"""The memory that a plan promises is what training holds: the states DeepSpeed keeps, the tensors autograd keeps."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from jobs.recipes import mars_7b
from pipeline.architecture.geometries import GEOMETRIES
from pipeline.architecture.mars_config import MarsConfig
from pipeline.benchmarks.meta_peak import count_peak, full_rows
from pipeline.config.gpus import memory_bytes
from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind
from pipeline.config.zero import ZeroConfig
from pipeline.data.collate import MicroBatch, collate
from pipeline.model.mars import MarsForCausalLM
from pipeline.planning.flops import count_parameters
from pipeline.planning.memory import (
    SUB_GROUP_ELEMENTS,
    RowShape,
    activation_bytes,
    head_bytes,
    layer_backward_bytes,
    layer_bytes,
    memory_plan,
)
from pipeline.planning.recipe_plan import sample_lengths
from pipeline.training.objective import Objective
from tests.support.checkout import CHECKOUT
from tests.support.objective import WEIGHTS
from tests.support.small_models import builder_of, small_config

STAGE = StageConfig(purpose="memory")
LAYERS = 4


def batch_of(model: MarsForCausalLM, kind: Kind, samples: int = 1) -> MicroBatch:
    """Two rows of so many samples each; text and pictures of other lengths."""
    builder, codes = builder_of(model), np.arange(96) % 32
    sample = builder.text_to_image([*range(48)], codes)
    if kind is Kind.CAPTIONING:
        sample = builder.captioning(codes[:94], [*range(40)], "en")
    return collate(kind, [[sample] * samples] * 2, builder.vocabulary, WEIGHTS, 16)


def shape_of(batch: MicroBatch) -> RowShape:
    labels = len(batch.text_labels.index) + len(batch.code_labels.index)
    (rows, text), visual = batch.text.ids.shape, batch.visual.ids.shape[1]
    return RowShape(batch.kind, rows, text, visual, labels)


def kept_bytes(config: MarsConfig, kind: Kind, attention: str, dtype: str, every: int) -> tuple[int, RowShape]:
    """Bytes of the tensors, parameters apart, that autograd keeps between a forward and its backward pass."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).freeze_language_expert().train()
    model.set_attn_implementation(attention)
    if every:
        model.model.checkpoint_every = every
        model.gradient_checkpointing_enable()
    batch = batch_of(model, kind)
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept.setdefault(place, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = Objective(model)([batch]).loss
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), shape_of(batch)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", [Kind.TEXT_TO_IMAGE, Kind.CAPTIONING], ids=lambda kind: kind.name)
@pytest.mark.parametrize("key_value_heads", [2, 4])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "qwen3",
    [{}, dict(head_dim=24, query_key_norm=True, qkv_bias=False), dict(visual_query_key_norm=True)],
    ids=["Qwen2", "Qwen3", "visual norms"],
)
def test_a_layer_keeps_what_autograd_keeps_of_it(
    dtype: str, attention: str, kind: Kind, key_value_heads: int, shared: bool, qwen3: dict[str, Any]
) -> None:
    changes = dict(hidden_size=64, num_key_value_heads=key_value_heads, shared_output_projection=shared) | qwen3
    few, many = (small_config(num_hidden_layers=layers, **changes) for layers in (2, LAYERS))
    (of_few, _), (of_many, shape) = (kept_bytes(config, kind, attention, dtype, 0) for config in (few, many))
    assert layer_bytes(many, shape, attention, dtype) == pytest.approx((of_many - of_few) / (LAYERS - 2), rel=0.001)


@pytest.mark.parametrize("every", [0, 1, 2])
@pytest.mark.parametrize("kind", [Kind.TEXT_TO_IMAGE, Kind.CAPTIONING], ids=lambda kind: kind.name)
def test_recomputed_layers_keep_their_inputs_alone(every: int, kind: Kind) -> None:
    """Measured by the difference that four layers make, because other tensors occur once whatever the layers."""
    real, planned = [], []
    for layers in (2, 2 + LAYERS):
        config = small_config(hidden_size=64, num_hidden_layers=layers)
        kept, shape = kept_bytes(config, kind, "sdpa", "bfloat16", every)
        real.append(kept)
        planned.append(activation_bytes(config, replace(STAGE, checkpoint_every_layers=every), "bfloat16", [shape]))
    # Inputs of recomputed layers: a prefix's keys and values, of two heads of 16, which autograd does not show.
    recomputed = LAYERS // every if every else 0
    prefix = recomputed * shape.text_tokens * 2 * 2 * 32 if kind.has_text_prefix else 0
    assert planned[1] - planned[0] - prefix == pytest.approx(real[1] - real[0], rel=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("every", [0, 1, 2])
@pytest.mark.parametrize(("attention", "dtype"), [("sdpa", "bfloat16"), ("sdpa", "float32"), ("eager", "float32")])
def test_a_micro_step_takes_no_more_than_planned_and_not_much_less(every: int, attention: str, dtype: str) -> None:
    """The peak of torch's allocations over a forward and backward pass of both kinds, gradients of weights apart."""
    changes = dict(hidden_size=128, intermediate_size=352, num_hidden_layers=6, num_attention_heads=4)
    config = small_config(**changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).freeze_language_expert().train()
    model.set_attn_implementation(attention)
    if every:
        model.model.checkpoint_every = every
        model.gradient_checkpointing_enable()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda trained: setattr(trained, "grad", None))
    # Many positions, so that a layer's weights' gradients, which are counted elsewhere, are little beside them.
    batches = [batch_of(model, kind, samples=6) for kind in (Kind.TEXT_TO_IMAGE, Kind.CAPTIONING)]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        Objective(model)(batches).loss.backward()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    peak = np.cumsum([event.nbytes() for event in events]).max()
    stage = replace(STAGE, attention=attention, checkpoint_every_layers=every)
    shapes = [shape_of(batch) for batch in batches]
    head = head_bytes(config, stage, dtype, shapes, use_gpu=False)
    planned = activation_bytes(config, stage, dtype, shapes)
    planned += max(head, layer_backward_bytes(config, stage, dtype, shapes))
    assert 0.97 <= planned / peak <= 1.4, f"{planned:,} planned, {peak:,} taken"


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2, 0])
@pytest.mark.parametrize(
    "number, rows",
    [
        (1, {Kind.TEXT_TO_IMAGE: (2, 8), Kind.CAPTIONING: (2, 8)}),
        (2, {Kind.CAPTIONING: (1, 3)}),  # a short row: a matrix's gradient is large beside it
        (3, {Kind.TEXT_TO_IMAGE: (1, 6), Kind.HIGH_RESOLUTION: (2, 1)}),
    ],
    ids=["two kinds", "a short row", "high resolution"],
)
def test_the_plan_of_mars_7b_is_what_a_micro_step_takes_at_full_size(
    number: int, rows: dict[Kind, tuple[int, int]], every: int
) -> None:
    """On torch's meta device, all 32 layers, with so many rows of so many samples of each kind."""
    recipe = mars_7b.recipe()
    stage = replace(recipe.stages[number - 1], checkpoint_every_layers=every)
    config, lengths = GEOMETRIES["qwen_7b"], sample_lengths(recipe)
    batches = [full_rows(config, stage, kind, lengths, *count) for kind, count in rows.items()]
    assert count_peak(config, config, stage, recipe.zero, batches).ratio == pytest.approx(1, abs=0.02)


def test_states_agree_with_the_table_on_paper() -> None:
    """And with it docs/performance.md with the arithmetic that refuses recipes."""
    config = GEOMETRIES["qwen_7b"]
    counts = count_parameters(config)
    table = re.findall(
        r"^\| (ZeRO-.*?) \| ([\d.]+) GB \| ([\d.]+) GB \|$", (CHECKOUT / "docs/performance.md").read_text(), re.M
    )
    for name, *stated in table[:3]:  # the table after it is of what is received
        zero = ZeroConfig(zero_stage=2 if "ZeRO-2" in name else 3, frozen_whole="whole" in name)
        for world_size, gigabytes in zip((8, 64), stated, strict=True):
            plan = memory_plan(config, counts, STAGE, zero, world_size, [], use_gpu=True)
            assert plan.states / 1e9 == pytest.approx(float(gigabytes), abs=0.051), name


def test_the_fullest_moment_can_be_the_start() -> None:
    """The whole model is on the device before DeepSpeed partitions it."""
    counts = count_parameters(GEOMETRIES["qwen_7b"])
    plans = [
        memory_plan(GEOMETRIES["qwen_7b"], counts, STAGE, ZeroConfig(3), ranks, [], use_gpu=False)
        for ranks in (1, 1024)
    ]
    assert [plan.start for plan in plans] == [2 * counts.total] * 2
    assert plans[1].peak == plans[1].start
    assert plans[0].peak > plans[0].states > plans[0].start


def test_deepspeeds_defaults_are_those_the_plan_counts_on() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    assert DeepSpeedZeroConfig().reduce_bucket_size == ZeroConfig().reduce_bucket_size
    assert DeepSpeedZeroConfig().sub_group_size == SUB_GROUP_ELEMENTS


def test_nothing_is_gathered_where_nothing_is_partitioned() -> None:
    config = GEOMETRIES["qwen_7b"]
    counts = count_parameters(config)
    plans = {
        (stage, whole): memory_plan(config, counts, STAGE, ZeroConfig(stage, frozen_whole=whole), 64, [], use_gpu=True)
        for stage, whole in ((2, False), (3, False), (3, True))
    }
    assert plans[2, False].gathered == 0
    assert plans[3, True].gathered == plans[3, False].gathered == 2e9
    few = ZeroConfig(3, max_live_parameters=1)
    assert memory_plan(config, counts, STAGE, few, 64, [], use_gpu=True).gathered == 2 * 4096 * 160_136


def test_a_gpus_memory_is_found_by_its_name_and_never_guessed() -> None:
    assert memory_bytes("NVIDIA A100-SXM4-80GB") == memory_bytes("A100-80GB") == 80e9
    assert memory_bytes("NVIDIA A100-SXM4-40GB") == 40e9
    assert memory_bytes("NVIDIA H100 80GB HBM3") == memory_bytes("H100") == 80e9
    assert memory_bytes("A100") is None, "it comes in two sizes"
    assert memory_bytes("H100-96GB") is None, "not the size of the data sheet"
    assert memory_bytes("Some card") is None
