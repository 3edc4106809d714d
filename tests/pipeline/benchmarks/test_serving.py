"""The benchmark of a server counts each answer that is not right."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.benchmarks.serving.clients import NO_FAULTS, Asked, Client, Expected, Faults, Outcome, run_clients
from pipeline.generation.actor import Generator, GeneratorConfig
from pipeline.generation.sampling import Sampling
from pipeline.serving.served_model import ServedModel
from tests.support.small_server import LIMITS, NUM_ROWS, small_served, small_server

ASKED = [Asked(prompt, seed) for prompt in ("red circle", "圆") for seed in range(2)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return small_served(tmp_path_factory.mktemp("served") / "run")


def drawn(served: ServedModel) -> Expected:
    """What `generate` draws with the recipe's sampling, as the requests leave it open."""
    sampling = Sampling(served.temperature, served.top_k, 1.0, served.guidance_scale)
    lengths = (NUM_ROWS, served.max_prompt_ids, served.num_codes)
    config = GeneratorConfig(Path(served.export), *lengths, sampling, high=served.high, as_served=True)
    prompts = np.asarray([asked.prompt for asked in ASKED], dtype=object)
    made = Generator(config)({"prompt": prompts, "seed": np.asarray([asked.seed for asked in ASKED])})
    columns = zip(ASKED, made["drawn_codes"], made["drawn_high_codes"], strict=True)
    return {asked: (tuple(codes.tolist()), tuple(high.tolist())) for asked, codes, high in columns}


def outcome_of(served: ServedModel, expected: Expected, faults: Faults, count: int) -> Outcome:
    with small_server(served, replace(LIMITS, max_outstanding=5)) as server:
        client = Client(server.url, expected, 2 * LIMITS.max_body_bytes)
        asked = [ASKED[number % len(ASKED)] for number in range(count)]
        asyncio.run(run_clients(client, asked, 8, faults))
        server.wait_until(lambda: server.application.gate.outstanding == 0)
    return client.outcome


@pytest.mark.slow
def test_many_clients_some_with_faults_all_get_what_they_should(served: ServedModel) -> None:
    outcome = outcome_of(served, drawn(served), Faults(0.2, 0.1, 0.1), 60)
    assert outcome.wrong == [] and outcome.num_requests == 60 and outcome.num_refused > 0
    assert set(outcome.counts) == {"pictures", "hung up", "wrong value", "too large"}


@pytest.mark.slow
def test_another_picture_is_counted_as_wrong(served: ServedModel) -> None:
    expected = drawn(served)
    expected[ASKED[0]] = ((0,) * served.num_codes, None)
    outcome = outcome_of(served, expected, NO_FAULTS, 4)
    assert outcome.wrong == [f"another picture of {ASKED[0]}"]
