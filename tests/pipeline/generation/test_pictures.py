"""Generation with the static cache is the model's own, whatever shares the batch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.benchmarks.generation import GenerationBenchmark, measure_generation
from pipeline.config.tasks import Kind
from pipeline.config.vocabulary import Role, State
from pipeline.data.collate import collate
from pipeline.generation.captions import generate_captions
from pipeline.generation.decoder import Decoder
from pipeline.generation.packed_linear import PackedLinear, can_pack, packed
from pipeline.generation.pictures import (
    HighResolution,
    PictureGenerator,
    Pictures,
    generate_codes,
)
from pipeline.generation.sampling import GREEDY, Sampling
from pipeline.model.mars import MarsForCausalLM
from pipeline.training.objective import Objective
from tests.support.models import random_model
from tests.support.reference import hidden_by_selection
from tests.support.small_models import CODEBOOK, END_ID, TEXT_VOCAB, builder_of, small_config

NUM_CODES, NUM_HIGH = 9, 16


PROMPTS = [[11, 12, 13, 14], [15], [16, 17]]


RANDOM = Sampling(temperature=1.3, top_k=20, top_p=0.9)


@pytest.fixture(params=[2, 4], ids=["grouped heads", "plain heads"])
def model(request: pytest.FixtureRequest) -> MarsForCausalLM:
    return random_model(num_key_value_heads=request.param)


def high(group_size: int) -> HighResolution:
    return HighResolution(Role.HIGH_1, group_size, NUM_HIGH)


def drawing(
    mars: MarsForCausalLM,
    sampling: Sampling,
    high: HighResolution | None = None,
    batch_size: int = 3,
    prompt_len: int = 4,
) -> PictureGenerator:
    return PictureGenerator(mars, batch_size, prompt_len, NUM_CODES, sampling, high)


def high_codes(made: Pictures) -> np.ndarray:
    assert made.high_codes is not None
    return made.high_codes


def test_every_step_of_the_cache_has_the_logits_of_the_whole_sequence(model: MarsForCausalLM) -> None:
    """Rows of differing length, text and picture, one id at a time."""
    generator = np.random.default_rng(0)
    opener = model.config.vocabulary.opener(Role.BASE)
    rows = [[*prompt, opener, *(generator.integers(0, CODEBOOK, 6) + TEXT_VOCAB)] for prompt in PROMPTS]
    lengths = torch.tensor([[len(prompt)] for prompt in PROMPTS])
    decoder = Decoder(model, 3, 12)
    text = torch.tensor([[*prompt, *[0] * (4 - len(prompt))] for prompt in PROMPTS])
    decoder.text(text, torch.arange(4).expand(3, -1), 4)
    for place in range(7):
        ids = torch.tensor([[row[len(prompt) + place]] for row, prompt in zip(rows, PROMPTS, strict=True)])
        at = torch.tensor([[len(prompt) + place] for prompt in PROMPTS])
        for state in State:
            cached = decoder.logits(decoder.visual(ids, at, at - lengths, at + 1, 5 + place)[:, 0], state)
            for row, prompt, logits in zip(rows, PROMPTS, cached, strict=True):
                whole = model.model(torch.tensor([row[: len(prompt) + place + 1]])).last_hidden_state[0, -1]
                torch.testing.assert_close(logits, model.head(whole, state), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("group_size", [1, 2, 4, 16])
@pytest.mark.parametrize("prompt", [[11, 12, 13], []])
def test_high_resolution_decoding_chooses_what_trainings_own_pass_predicts(
    model: MarsForCausalLM, group_size: int, prompt: list[int]
) -> None:
    """The mask of a group, positions and openers must be those of training: otherwise pictures would differ."""
    builder = builder_of(model)
    made = drawing(model, GREEDY, high(group_size)).draw([prompt, [15]], [0, 0])
    sequence = builder.high_resolution(prompt, made.codes[0], high_codes(made)[0], Role.HIGH_1, group_size)
    batch = collate(Kind.HIGH_RESOLUTION, [[sequence]], builder.vocabulary, [1.0] * 4, 1)
    hidden = torch.cat(Objective(model).hidden_states([batch])[0], dim=1).flatten(0, 1)
    labels = batch.code_labels
    logits = model.head(hidden[labels.index], State.CODES)
    assert len(logits) == NUM_CODES + NUM_HIGH
    assert logits.argmax(-1).tolist() == (labels.ids - TEXT_VOCAB).tolist()
    assert len({*made.codes[0], *high_codes(made)[0]}) > 2, "pictures of one code would show nothing"


def test_a_group_of_one_is_ordinary_next_token_prediction(model: MarsForCausalLM) -> None:
    made = drawing(model, GREEDY, high(1)).draw(PROMPTS, [0] * 3)
    vocabulary = model.config.vocabulary
    for prompt, low, codes in zip(PROMPTS, made.codes, high_codes(made), strict=True):
        opener, closer = vocabulary.opener(Role.BASE), vocabulary.closer(Role.BASE)
        ids = [*prompt, opener, *(low + TEXT_VOCAB), closer, vocabulary.opener(Role.HIGH_1)]
        for code in codes:
            hidden = hidden_by_selection(model, torch.tensor([ids]))[0, -1]
            assert model.head(hidden, State.CODES).argmax() == code
            ids.append(code + TEXT_VOCAB)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(guidance_scale=2.0)])
def test_a_high_resolution_picture_of_a_base_picture_is_the_one_drawn_with_it(
    model: MarsForCausalLM, sampling: Sampling
) -> None:
    generator = drawing(model, sampling, high(4))
    made = generator.draw(PROMPTS, [1, 2, 3])
    generator.read(PROMPTS, made.codes, [1, 2, 3])
    assert np.array_equal(generator.generate_high(), high_codes(made))
    without = drawing(model, sampling).draw(PROMPTS, [1, 2, 3])
    assert np.array_equal(without.codes, made.codes) and without.high_codes is None


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_same_prompt_and_seed_give_the_same_picture_whatever_shares_the_batch(
    model: MarsForCausalLM, scale: float
) -> None:
    sampling = Sampling(temperature=1.3, top_k=20, top_p=0.9, guidance_scale=scale)
    generator = drawing(model, sampling, high(4), batch_size=4)
    alone = generator.draw([[11, 12]], [7])
    for prompts, seeds, row in (
        ([[11, 12], [13], [14, 15, 16, 17]], [7, 7, 8], 0),
        ([[21, 22, 23, 24], [], [11, 12], [11, 12]], [1, 2, 7, 9], 2),
    ):
        made = generator.draw(prompts, seeds)
        assert np.array_equal(made.codes[row], alone.codes[0])
        assert np.array_equal(high_codes(made)[row], high_codes(alone)[0])
    assert not np.array_equal(made.codes[3], alone.codes[0]), "another seed draws another picture"
    assert len(made.codes) == 4


def test_guidance_of_scale_one_is_none_and_of_scale_zero_forgets_the_prompt(model: MarsForCausalLM) -> None:
    plain = generate_codes(model, PROMPTS, NUM_CODES, GREEDY)
    unguided = generate_codes(model, [[], [], []], NUM_CODES, GREEDY)
    zero = generate_codes(model, PROMPTS, NUM_CODES, Sampling(temperature=0, guidance_scale=0.0))
    strong = generate_codes(model, PROMPTS, NUM_CODES, Sampling(temperature=0, guidance_scale=5.0))
    assert np.array_equal(zero, unguided)
    assert not np.array_equal(strong, plain) and not np.array_equal(plain, unguided)


def test_guidance_mixes_the_logits_of_both_contexts(model: MarsForCausalLM) -> None:
    scale, vocabulary = 2.5, model.config.vocabulary
    codes = generate_codes(model, PROMPTS, NUM_CODES, Sampling(temperature=0, guidance_scale=scale))
    for prompt, row in zip(PROMPTS, codes, strict=True):
        ids = [vocabulary.opener(Role.BASE)]
        for code in row:
            with_prompt, without = (
                model.head(hidden_by_selection(model, torch.tensor([context]))[0, -1], State.CODES)
                for context in ([*prompt, *ids], ids)
            )
            mixed = without + scale * (with_prompt - without)
            assert mixed[code] >= mixed.max() - 1e-4
            ids.append(code + TEXT_VOCAB)


def test_a_picture_step_runs_the_visual_expert_only(model: MarsForCausalLM) -> None:
    """Otherwise a step would take twice the time."""
    calls: dict[str, int] = {}

    def count(name: str) -> Callable:
        return lambda *_: calls.update({name: calls.get(name, 0) + 1})

    for name, module in model.named_modules():
        if name.endswith("expert"):
            module.qkv = counting(module.qkv, count(name))
    generator = drawing(model, Sampling(guidance_scale=2.0), high(4))
    generator.draw([[], []], [0, 0])
    steps = NUM_CODES + NUM_HIGH // 4
    assert {name: number for name, number in calls.items() if "visual" in name} == {
        f"model.layers.{layer}.visual_expert": steps for layer in range(2)
    }
    assert all(number == 1 for name, number in calls.items() if "text" in name), "the prompt's pass, once"


def counting(function: Callable, count: Callable) -> Callable:
    def counted(*arguments: Any) -> Any:
        count()
        return function(*arguments)

    return counted


def test_the_head_runs_over_codes_alone_while_a_picture_is_drawn(
    model: MarsForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[State] = []
    own = Decoder.logits

    def recorded(self: Decoder, hidden: torch.Tensor, state: State) -> torch.Tensor:
        asked.append(state)
        return own(self, hidden, state)

    monkeypatch.setattr(Decoder, "logits", recorded)
    drawing(model, GREEDY, high(4)).draw(PROMPTS, [0] * 3)
    assert asked == [State.CODES] * (NUM_CODES + NUM_HIGH // 4)


@pytest.mark.slow
@pytest.mark.parametrize("group_size", [1, 4])
def test_a_step_is_one_graph_without_a_break(model: MarsForCausalLM, group_size: int) -> None:
    """A CUDA graph needs this. The test makes the graph without a GPU."""
    torch.compiler.reset()
    generator = drawing(model, Sampling(top_p=0.9, guidance_scale=2.0), high(group_size))
    expected = generator.draw(PROMPTS, [1, 2, 3])
    torch._dynamo.utils.counters.clear()
    generator._compiled_step = torch.compile(generator._step, backend="eager", fullgraph=True, dynamic=False)
    generator._decoder._whole_cache = True
    made = generator.draw(PROMPTS, [1, 2, 3])
    assert np.array_equal(made.codes, expected.codes) and np.array_equal(high_codes(made), high_codes(expected))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == (1 if group_size == 1 else 2), "one graph a number of codes at once, however many steps"


@pytest.mark.slow
def test_all_that_the_benchmark_compares_draw_the_same_pictures() -> None:
    """Otherwise its ratios would compare different work."""
    lines: list[str] = []
    benchmark = GenerationBenchmark(small_config(), batch_size=2, text_ids=5, num_codes=8, rounds=2)
    figures = measure_generation(benchmark, torch.device("cpu"), lines.append)
    assert len(lines) == 3 and figures["device"].startswith("CPU")
    for name in ("images_per_s", "cached_over_uncached", "next_k_speedup", "over_hf_generate"):
        assert figures[name] > 0
    other = replace(benchmark, dtype=torch.bfloat16)
    assert measure_generation(other, torch.device("cpu"), lines.append)["dtype"] == "bfloat16"


def test_a_used_cache_draws_as_a_new_one(model: MarsForCausalLM) -> None:
    used = drawing(model, RANDOM, high(4))
    used.draw([[31, 32, 33, 34], [35, 36, 37]], [5, 6])
    fresh = drawing(model, RANDOM, high(4)).draw(PROMPTS, [1, 2, 3])
    assert np.array_equal(high_codes(used.draw(PROMPTS, [1, 2, 3])), high_codes(fresh))


def test_captions_of_unequal_prompts_are_the_whole_passes_likeliest(model: MarsForCausalLM) -> None:
    builder = builder_of(model)
    codes = np.arange(9) % CODEBOOK
    prompts = [builder.caption_prompt(codes, "en"), builder.caption_prompt(codes + 3, "zh")]
    captions = generate_captions(model, prompts, END_ID, 6)
    assert captions == generate_captions(model, prompts, END_ID, 6, text_len=8)
    for prompt, caption in zip(prompts, captions, strict=True):
        ids = prompt.tolist()
        expected: list[int] = []
        while len(expected) < 6:
            hidden = hidden_by_selection(model, torch.tensor([ids]))[0, -1]
            chosen = int(model.head(hidden, State.TEXT).argmax())
            if chosen >= TEXT_VOCAB or chosen == END_ID:
                break
            expected.append(chosen)
            ids.append(chosen)
        assert caption == expected


def test_captions_end_at_the_end_id_and_at_an_opener(model: MarsForCausalLM) -> None:
    prompts = [builder_of(model).caption_prompt(np.arange(9), "en")] * 2
    first = generate_captions(model, prompts, END_ID, 4)[0]
    assert len(first) > 1
    assert generate_captions(model, prompts, first[1], 4) == [first[:1]] * 2
    model.head.visual_weight.data[CODEBOOK] = 100 * model.head.text_weight.data[first[0]]
    assert generate_captions(model, prompts, END_ID, 4) == [[], []]


def test_a_group_that_does_not_divide_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="group_size 5 does not divide the 16"):
        high(5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_draw_what_the_models_own_do(shared: bool, dtype: torch.dtype) -> None:
    model = random_model(shared_output_projection=shared).to(dtype)
    if not can_pack(model.head.visual_weight):
        assert dtype == torch.bfloat16, "every CPU's torch can lay out float32"
        with pytest.raises(RuntimeError, match="bf16"):  # `can_pack` keeps the decoder from this
            PackedLinear(model.head.visual_weight)(torch.randn(3, 32).to(dtype))
        return
    layer = model.model.layers[0]
    rows = torch.randn(3, 5, 32).to(dtype)
    for own in (layer.visual_expert.q_proj, layer.visual_o_proj, layer.visual_expert.mlp):
        torch.testing.assert_close(
            packed(own)(rows), own(rows), atol=1e-5 if dtype == torch.float32 else 5e-2, rtol=1e-2
        )
    assert isinstance(layer.visual_expert.q_proj, torch.nn.Linear), "the model itself stays as it was"
    weight = PackedLinear(model.head.visual_weight)
    before = weight(rows)
    model.head.visual_weight.data.zero_()
    assert torch.equal(weight(rows), before)
