"""FlexAttention trains as the other attentions do, and `torch.compile` makes few graphs of it.

A CPU has no compiled backward pass of it. So torch's check of the device is left out here, and a backend of
`torch.compile` runs that computes with plain operators.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import flex_attention

import pipeline.model.attention as attention
from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind, Task
from pipeline.config.vocabulary import Role
from pipeline.config.zero import ZeroConfig
from pipeline.data.collate import MicroBatch, collate
from pipeline.data.sequences import Sequence
from pipeline.generation.pictures import PictureGenerator
from pipeline.generation.sampling import GREEDY
from pipeline.model.layers import MarsDecoderLayer
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.deepspeed_private import kept_gathered
from pipeline.runtime.rank import Rank
from pipeline.runtime.torch_private import GRAPH_LIMIT, join_fake_group
from pipeline.training.engine import accumulate, make_engine
from pipeline.training.objective import Objective
from pipeline.training.process import set_up_process
from tests.support.ranks import spawn
from tests.support.small_models import CODEBOOK, TEXT_VOCAB, builder_of, small_config

WEIGHTS = [1.0] * len(Task)
ROW_MULTIPLE, NUM_CODES, NUM_HIGH, GROUP = 64, 48, 64, 16
SAMPLES, CAPTION_IDS = 4, (50, 101)
"""Samples of a row, and bounds of a caption's ids: every stream is longer than a block of 128, as in training."""


@pytest.fixture
def compile_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Lets `torch.compile` use a backend for CPUs, and FlexAttention have gradients there."""
    compiler = torch.compile

    def use(backend: str) -> None:
        torch.compiler.reset()
        attention._compiled_flex_attention.cache_clear()
        monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
        monkeypatch.setattr(torch, "compile", lambda f=None, **how: compiler(f, **(how | {"backend": backend})))

    yield use
    torch.compiler.reset()
    attention._compiled_flex_attention.cache_clear()


def a_batch(mars: MarsForCausalLM, kind: Kind, rows: int, random: np.random.Generator) -> MicroBatch:
    """Rows of samples whose captions differ in length."""
    builder = builder_of(mars)

    def codes(count: int) -> np.ndarray:
        return random.integers(0, CODEBOOK, count)

    def sample() -> Sequence:
        caption = random.integers(0, TEXT_VOCAB, random.integers(*CAPTION_IDS)).tolist()
        if kind is Kind.TEXT_TO_IMAGE:
            return builder.text_to_image(caption, codes(NUM_CODES))
        if kind is Kind.CAPTIONING:
            return builder.captioning(codes(NUM_CODES), caption, "en")
        return builder.high_resolution(caption, codes(NUM_CODES), codes(NUM_HIGH), Role.HIGH_1, GROUP)

    return collate(
        kind, [[sample() for _ in range(SAMPLES)] for _ in range(rows)], builder.vocabulary, WEIGHTS, ROW_MULTIPLE
    )


def a_model(**changes: Any) -> MarsForCausalLM:
    torch.manual_seed(0)
    model = MarsForCausalLM(small_config(max_position_embeddings=4096, **changes))
    model.freeze_language_expert().train()
    model.gradient_checkpointing_enable()
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "heads",
    [pytest.param((4, 4), marks=pytest.mark.long), (6, 2)],
    ids=["plain heads", "three heads a key head"],
)
def test_gradients_of_flex_attention_are_those_of_sdpa(
    compile_with: Callable[[str], None], heads: tuple[int, int]
) -> None:
    compile_with("aot_eager")
    model = a_model(hidden_size=48, num_attention_heads=heads[0], num_key_value_heads=heads[1])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    random = np.random.default_rng(0)
    for kind in (Kind.TEXT_TO_IMAGE, Kind.CAPTIONING, Kind.HIGH_RESOLUTION):
        batch = a_batch(model, kind, 1, random)
        found = {}
        for name in ("sdpa", "flex_attention"):
            model.set_attn_implementation(name)
            loss = Objective(model)([batch]).loss
            found[name] = loss.detach(), torch.autograd.grad(loss, trained)
        (expected_loss, expected), (loss, gradients) = found.values()
        torch.testing.assert_close(loss, expected_loss)
        largest = max(gradient.abs().max() for gradient in expected)
        assert largest > 0
        for own, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(own, other, atol=float(largest) * 1e-5, rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    ("zero", "every"),
    [
        (ZeroConfig(3, 0, frozen_whole=True, whole_layers=True, saving_linear=False), 1),
        (ZeroConfig(2), 0),
    ],
    ids=["mars_7b's settings", "mars_1b's settings"],
)
def test_training_validation_and_drawing_stay_far_below_the_limit_of_graphs(zero: ZeroConfig, every: int) -> None:
    """Beyond it training ends with an error, or, without the limit, goes on with unfused attention."""
    spawn(_count_graphs, 1, zero, every)


def _count_graphs(rank: int, zero: ZeroConfig, every: int) -> None:
    torch.set_num_threads(1)
    compiler = torch.compile
    torch_flex._validate_device = lambda *_: None
    torch.compile = lambda f=None, **how: compiler(f, **(how | {"backend": "eager"}))  # type: ignore[assignment]
    set_up_process(Rank(0, 16, 0, 8), torch.device("cpu"))
    join_fake_group(16)
    model = a_model()
    model.set_attn_implementation("flex_attention")
    model.model.compile_layers()
    if not every:
        model.gradient_checkpointing_disable()
    if zero.frozen_whole:
        model.keep_frozen_whole()
    stage = StageConfig(purpose="graphs", checkpoint_every_layers=every)
    engine = make_engine(Objective(model), stage, replace(zero, dtype="float32"))
    random = np.random.default_rng(0)

    def batches(rows: int) -> list[MicroBatch]:
        return [a_batch(model, kind, rows, random) for kind in (Kind.TEXT_TO_IMAGE, Kind.CAPTIONING)]

    def train() -> None:
        for rows in (2, 1):  # the last micro-step of a step can have fewer rows
            accumulate(engine, engine(batches(rows)).loss, last=rows == 1)
            engine.step()

    for _ in range(4):
        train()
    engine.eval()
    with torch.no_grad():
        for rows in (2, 1, 2):
            for batch in batches(rows):
                engine([batch])
        with kept_gathered(engine.module.parameters()):
            PictureGenerator(model, 2, 8, 9, GREEDY, None, many_steps=False).draw([[1] * 8, [2]], [0, 0])
    engine.train()
    for _ in range(6):
        train()
    made = graphs()
    compiled = {name: count for name, count in made.items() if count}
    assert {"run_text", "run_visual", "run_joint"} <= compiled.keys(), "nothing was compiled"
    assert max(made.values()) <= GRAPH_LIMIT // 4, made
    assert not counters["graph_break"], dict(counters["graph_break"])


def graphs() -> dict[str, int]:
    """The number of graphs of each function that is compiled."""
    functions = [MarsDecoderLayer.run_joint, MarsDecoderLayer.run_text, MarsDecoderLayer.run_visual]
    return {each.__name__: len(_debug_get_cache_entry_list(each.__code__)) for each in (*functions, flex_attention)}
