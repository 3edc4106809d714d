"""The ids that may be drawn, and their probabilities, equal those of transformers."""

from typing import Any

import pytest
import torch
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from pipeline.generation.sampling import GREEDY, Sampling, choose, uniform_numbers


def shares(sampling: Sampling, logits: torch.Tensor) -> torch.Tensor:
    """The share of each choice over evenly spaced random numbers: its probability, to 1e-4."""
    uniform = torch.arange(20_000) / 20_000
    chosen = choose(logits.expand(len(uniform), -1), sampling, uniform)
    return torch.bincount(chosen, minlength=len(logits)) / len(uniform)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.8), (12, 0.6), (1, 1.0), (0, 1e-9), (99, 1.0)])
def test_choices_come_as_often_as_transformers_says(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0))
    expected = logits[None] / temperature
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    made = shares(Sampling(temperature=temperature, top_k=top_k, top_p=top_p), logits)
    torch.testing.assert_close(made, torch.softmax(expected[0], -1), atol=2e-4, rtol=0)


def test_no_number_chooses_what_has_no_probability() -> None:
    logits = torch.tensor([float("-inf"), 1.0, float("-inf"), 2.0, float("-inf")])
    edge = torch.tensor([0.0, 1 - 2**-24])
    for top_p in (1.0, 0.99):
        assert sorted(choose(logits.expand(2, -1), Sampling(top_p=top_p), edge).tolist()) == [1, 3]
    assert choose(logits, GREEDY, edge[0]) == 3


@pytest.mark.parametrize("sampling", [Sampling(1e-40), Sampling(1e-40, 10), Sampling(0.5, 0, 1e-50), Sampling(1e-7)])
def test_the_smallest_temperatures_take_the_most_likely_id(sampling: Sampling) -> None:
    """Logits over 1e-40 are infinite, and 1e-50 is 0 in float32: what was chosen was no id, and ended the pass."""
    logits = torch.randn(4, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(choose(logits, sampling, torch.linspace(0, 0.99, 4)), logits.argmax(-1))


def test_more_numbers_of_a_seed_begin_with_the_same_ones() -> None:
    """So a base picture stays the same if a high-resolution one follows."""
    few, many = (uniform_numbers([5, 6], count, torch.device("cpu")) for count in (9, 5000))
    assert torch.equal(few, many[:, :9])
    assert not torch.equal(few[0], few[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -3}, "top_k is -3"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
    ],
)
def test_impossible_sampling_is_named(changes: dict[str, Any], message: str) -> None:
    assert not Sampling().problems()
    (problem,) = Sampling(**changes).problems()
    assert message in problem and "but must be" in problem
