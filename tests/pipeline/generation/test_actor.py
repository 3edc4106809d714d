"""An exported model draws the best of several candidates, in both resolutions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.generation.actor import Generator, GeneratorConfig
from pipeline.generation.candidates import SEED_STRIDE, prompt_log_likelihoods
from pipeline.generation.sampling import Sampling
from pipeline.serving.served_model import ServedModel
from tests.support.small_server import small_served
from tokenization.text_tokenizer import text_ids

PROMPTS, LANGUAGES, SEEDS = ["red circle", "蓝色方块", "green"], ["en", "zh", ""], [5, 6, 7]
CANDIDATES = 4


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return small_served(tmp_path_factory.mktemp("served") / "run")


def columns(seeds: list[int]) -> dict[str, np.ndarray]:
    rows = {"prompt": np.asarray(PROMPTS, dtype=object), "language": np.asarray(LANGUAGES, dtype=object)}
    return rows | {"seed": np.asarray(seeds)}


@pytest.mark.slow
def test_of_several_candidates_the_one_is_kept_out_of_which_the_prompt_is_read_best(served: ServedModel) -> None:
    sampling = Sampling(temperature=2.0, guidance_scale=1.5)
    lengths = served.max_prompt_ids, served.num_codes
    config = GeneratorConfig(Path(served.export), len(PROMPTS), *lengths, sampling, high=served.high)
    plain = Generator(config)
    drawn = [
        plain(columns([seed + number * SEED_STRIDE for seed in SEEDS]))["drawn_codes"] for number in range(CANDIDATES)
    ]
    prompts = text_ids(plain._tokenizer, PROMPTS)
    scores = np.stack(
        [prompt_log_likelihoods(plain._model, plain._builder, prompts, codes, LANGUAGES) for codes in drawn]
    )
    best = scores.argmax(0)
    assert len(set(best.tolist()) - {0}) >= 1, "the first ones are the best: nothing would be shown"

    made = Generator(replace(config, num_candidates=CANDIDATES))(columns(SEEDS))
    assert np.array_equal(made["drawn_codes"], np.stack(drawn)[best, range(len(PROMPTS))])
    assert made["drawn_high_codes"].shape == (len(PROMPTS), served.num_high_codes)
