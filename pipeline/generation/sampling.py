"""Chooses the next id from its logits.

Every row has its own random numbers, one per id, drawn in advance from the row's seed. So a row does not depend on the
other rows of the batch, and a device never waits for a draw.

Shape letters: B rows, K ids chosen at once, C choices.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_SEED = 2**63 - 1
LEAST_TEMPERATURE = 1e-6
"""Lower ones take the most likely id: logits divided by them may be infinite."""
LEAST_TOP_P = 1e-30
"""Lower ones take the most likely id, too: in float32 they may be 0."""


@dataclass(frozen=True)
class Sampling:
    """Sampling settings for the next id.

    Attributes:
        temperature: divides the logits; 0, or what is below `LEAST_TEMPERATURE`, takes the most likely id.
        top_k: sample among this many most likely ids; 0: among all.
        top_p: sample among the most likely ids that together reach this probability (Holtzman 2019), after temperature
            and `top_k`; 1: among all.
        guidance_scale: 1 for none; otherwise `uncond + scale * (cond - uncond)` on the logits (Ho 2022).
        seed: seed of rows that do not have their own.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance_scale: float = 1.0
    seed: int = 0

    @property
    def guided(self) -> bool:
        """True if every row needs its unconditional half."""
        return self.guidance_scale != 1.0

    @property
    def greedy(self) -> bool:
        """True if the most likely id is taken, whatever the random numbers."""
        return self.temperature < LEAST_TEMPERATURE or self.top_p < LEAST_TOP_P

    def problems(self) -> list[str]:
        """Returns the reasons why the settings are invalid; empty if they are valid."""
        values = {name: getattr(self, name) for name in ("temperature", "top_k", "guidance_scale")}
        # Written so that NaN is a problem.
        found = [
            f"{name} is {value}, but must be at least 0 and finite"
            for name, value in values.items()
            if not 0 <= value < float("inf")
        ]
        if not 0 < self.top_p <= 1:
            found.append(f"top_p is {self.top_p}, but must be above 0 and at most 1")
        return found + seed_problems(self.seed)


GREEDY = Sampling(temperature=0.0)
"""Takes the most likely id."""


def seed_problems(seed: int) -> list[str]:
    """Returns the reasons why a seed is invalid; empty if it is valid."""
    return [] if 0 <= seed <= MAX_SEED else [f"seed is {seed}, but must be from 0 to 2^63 - 1"]


def uniform_numbers(seeds: list[int], count: int, device: torch.device) -> Tensor:
    """For each row `count` numbers from [0, 1) that depend on its seed alone, float32 [B, count]. A larger `count` only
    appends numbers."""
    rows = [torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) for seed in seeds]
    return torch.stack(rows).to(device)


def choose(logits: Tensor, sampling: Sampling, uniform: Tensor) -> Tensor:
    """Returns indices of the chosen ids, int64 [...], for float32 logits [..., C] and numbers from [0, 1) [...].

    Inverts the cumulative distribution: each choice needs one random number, independent of C.
    """
    if sampling.greedy:
        return logits.argmax(-1)
    logits, order = logits / sampling.temperature, None
    if sampling.top_k:
        logits, order = logits.topk(min(sampling.top_k, logits.shape[-1]))
    elif sampling.top_p < 1:
        logits, order = logits.sort(descending=True)
    probabilities = torch.softmax(logits, dim=-1)
    if sampling.top_p < 1:
        likelier = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(likelier >= sampling.top_p, 0)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[..., -1:]
    # Below the total even after rounding, so that the chosen id has a probability above 0.
    threshold = torch.minimum(uniform[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    places = torch.searchsorted(cumulative, threshold, right=True)
    return (places if order is None else order.gather(-1, places))[..., 0]


def guide(logits: Tensor, sampling: Sampling) -> Tensor:
    """Classifier-free guidance: [2B, ...], the conditional rows first, to [B, ...]; without guidance, no change."""
    if not sampling.guided:
        return logits
    conditional, unconditional = logits.chunk(2)
    return unconditional + sampling.guidance_scale * (conditional - unconditional)
