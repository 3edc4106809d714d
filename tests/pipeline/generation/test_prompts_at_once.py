"""A GPU draws as many pictures at once as its memory holds caches, and the pictures are the same."""

import numpy as np
import pytest

from pipeline.config.model_sizes import CACHE_SHARE
from pipeline.config.vocabulary import Role
from pipeline.generation.pictures import HighResolution, PictureGenerator
from pipeline.generation.prompts_at_once import prompts_that_fit
from pipeline.generation.sampling import Sampling
from pipeline.model.mars import MarsForCausalLM
from tests.support.models import random_model

NUM_CODES, HIGH, RANDOM = 9, HighResolution(Role.HIGH_1, 4, 16), Sampling(temperature=1.3, top_k=20, top_p=0.9)


@pytest.fixture(params=[2, 4], ids=["grouped heads", "plain heads"])
def model(request: pytest.FixtureRequest) -> MarsForCausalLM:
    return random_model(num_key_value_heads=request.param)


def test_more_prompts_than_fit_at_once_give_the_same_pictures(model: MarsForCausalLM) -> None:
    prompts, seeds = [[11, 12, 13, 14], [15], [16, 17], [3, 4], [5]], [*range(5)]
    whole = PictureGenerator(model, 5, 4, NUM_CODES, RANDOM, HIGH).draw(prompts, seeds)
    parts = PictureGenerator(model, 2, 4, NUM_CODES, RANDOM, HIGH).draw_all(prompts, seeds)
    assert parts.high_codes is not None and whole.high_codes is not None
    assert np.array_equal(parts.codes, whole.codes) and np.array_equal(parts.high_codes, whole.high_codes)


def test_the_caches_that_are_planned_are_those_that_are_made(model: MarsForCausalLM) -> None:
    made = PictureGenerator(model, 3, 4, NUM_CODES, RANDOM, HIGH)._decoder
    cached = sum(each.nbytes for each in (*made._keys, *made._values))

    def fit(guided: bool, free: float) -> int:
        return prompts_that_fit(model.config, 4, NUM_CODES, HIGH, guided, 4, int(free))

    assert fit(False, cached / CACHE_SHARE + 8) == 3 and fit(False, cached / CACHE_SHARE - 8) == 2
    assert fit(True, 2 * cached / CACHE_SHARE + 8) == 3, "with guidance a prompt has two rows"
    assert fit(False, 0) == 0
