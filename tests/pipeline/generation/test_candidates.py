"""Of several pictures of a prompt the one is kept out of which the model reads the prompt best."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.config.vocabulary import Role, State
from pipeline.data.sequences import SequenceBuilder
from pipeline.generation.candidates import SEED_STRIDE, draw_best, high_codes_of, prompt_log_likelihoods
from pipeline.generation.captions import caption_log_likelihoods
from pipeline.generation.pictures import HighResolution, PictureGenerator
from pipeline.generation.sampling import MAX_SEED, Sampling
from pipeline.model.mars import MarsForCausalLM
from tests.support.models import random_model
from tests.support.reference import hidden_by_selection
from tests.support.small_models import CODEBOOK, END_ID, builder_of

NUM_CODES, NUM_HIGH = 9, 16
PROMPTS = [[11, 12, 13, 14], [15], []]
RANDOM = Sampling(temperature=1.3, guidance_scale=1.5)


@pytest.fixture(scope="module")
def model() -> MarsForCausalLM:
    return random_model(num_key_value_heads=2)


@pytest.fixture(scope="module")
def builder(model: MarsForCausalLM) -> SequenceBuilder:
    instructions = {"en": [21, 22, 23], "zh": [24]}
    return replace(builder_of(model), instruction_ids=instructions)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, CODEBOOK, (count, NUM_CODES))


@torch.no_grad()
def whole_pass(model: MarsForCausalLM, prompt: np.ndarray, caption: list[int]) -> float:
    """log p(caption and its end | prompt) by the model's own pass over all ids."""
    ids = torch.tensor([[*prompt.tolist(), *caption, END_ID]])
    logits = model.head(hidden_by_selection(model, ids)[0, len(prompt) - 1 : -1], State.TEXT)
    return float(torch.log_softmax(logits.float(), -1)[range(len(caption) + 1), [*caption, END_ID]].sum())


def test_the_likelihood_of_a_caption_is_the_whole_passs_whatever_shares_the_batch(
    model: MarsForCausalLM, builder: SequenceBuilder
) -> None:
    languages = ["en", "zh", "en"]
    prompts = [builder.caption_prompt(*each) for each in zip(pictures(3), languages, strict=True)]
    found = caption_log_likelihoods(model, prompts, PROMPTS, END_ID)
    for prompt, caption, one in zip(prompts, PROMPTS, found, strict=True):
        assert one == pytest.approx(whole_pass(model, prompt, caption), rel=1e-4)
        assert one == pytest.approx(caption_log_likelihoods(model, [prompt], [caption], END_ID, 7)[0], rel=1e-4)


def test_a_prompt_of_no_known_language_is_read_in_the_one_that_suits_it(
    model: MarsForCausalLM, builder: SequenceBuilder
) -> None:
    codes = pictures(3)
    english, chinese = (
        prompt_log_likelihoods(model, builder, PROMPTS, codes, [language] * 3) for language in ("en", "zh")
    )
    assert (english != chinese).all()
    mixed = prompt_log_likelihoods(model, builder, PROMPTS, codes, ["zh", "", "de"])
    assert mixed == pytest.approx([chinese[0], *np.maximum(english, chinese)[1:]], rel=1e-4)


def test_the_best_is_kept_and_the_first_of_equal_ones() -> None:
    seeds, asked = [7, MAX_SEED, 9], []

    def draw(each: list[int]) -> np.ndarray:
        asked.append(each)
        return np.asarray([[len(asked), row] for row in range(3)])

    scores = iter(np.asarray([[0.0, 5.0, 1.0], [2.0, 4.0, 1.0], [1.0, 6.0, 1.0]]))
    best = draw_best(draw, seeds, 3, lambda codes: next(scores))
    assert best.tolist() == [[2, 0], [3, 1], [1, 2]]
    assert asked[0] == seeds and asked[1] == [7 + SEED_STRIDE, SEED_STRIDE - 1, 9 + SEED_STRIDE]
    assert draw_best(draw, seeds, 1, lambda codes: pytest.fail("nothing to choose")).tolist()[0] == [4, 0]


def test_the_high_resolution_of_a_chosen_picture_is_drawn_as_right_after_it(model: MarsForCausalLM) -> None:
    high = HighResolution(Role.HIGH_1, 4, NUM_HIGH)
    generator = PictureGenerator(model, 2, 4, NUM_CODES, RANDOM, high)
    drawn = generator.draw_all(PROMPTS, [1, 2, 3])
    assert drawn.high_codes is not None
    assert np.array_equal(high_codes_of(generator, PROMPTS, drawn.codes, [1, 2, 3]), drawn.high_codes)


def test_more_candidates_are_read_better(model: MarsForCausalLM, builder: SequenceBuilder) -> None:
    generator = PictureGenerator(model, 3, 4, NUM_CODES, RANDOM)

    def draw(seeds: list[int]) -> np.ndarray:
        return generator.draw_all(PROMPTS, seeds).codes

    def judge(codes: np.ndarray) -> np.ndarray:
        return prompt_log_likelihoods(model, builder, PROMPTS, codes, ["en"] * 3)

    seeds = [3, 4, 5]
    scores = [judge(draw_best(draw, seeds, count, judge)) for count in (1, 2, 6)]
    assert (np.diff(scores, axis=0) >= 0).all() and (scores[2] > scores[0]).any()
    every = [judge(draw([seed + number * SEED_STRIDE for seed in seeds])) for number in range(6)]
    assert scores[2] == pytest.approx(np.max(every, axis=0))
