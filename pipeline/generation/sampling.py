"""How the next id is chosen from its logits.

Every row has random numbers of its own, one for each id it chooses, drawn in advance from its own seed: what else
shares the batch changes nothing, and a device never waits for a draw.

Shape letters: B rows, K ids chosen at once, C choices.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Sampling:
    """How the next id is chosen.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest.
        top_k: sample among this many likeliest; 0 among all.
        top_p: sample among the likeliest that together reach this probability (Holtzman 2019), after temperature and
            `top_k`; 1 for all.
        guidance_scale: 1 for none; otherwise `uncond + scale * (cond - uncond)` on the logits (Ho 2022).
        seed: of the rows that name none of their own.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance_scale: float = 1.0
    seed: int = 0

    @property
    def guided(self) -> bool:
        """Whether every row needs its unconditional half."""
        return self.guidance_scale != 1.0

    def problems(self) -> list[str]:
        """What makes it impossible; empty where nothing does."""
        values = {name: getattr(self, name) for name in ("temperature", "top_k", "guidance_scale")}
        # Written so that NaN is a problem, too.
        found = [
            f"{name} is {value}, it must be at least 0 and finite"
            for name, value in values.items()
            if not 0 <= value < float("inf")
        ]
        if not 0 < self.top_p <= 1:
            found.append(f"top_p is {self.top_p}, it must be above 0 and at most 1")
        return found + seed_problems(self.seed)


GREEDY = Sampling(temperature=0.0)
"""Takes the likeliest."""


def seed_problems(seed: int) -> list[str]:
    """What makes a seed impossible; empty where nothing does."""
    return [] if 0 <= seed <= MAX_SEED else [f"seed is {seed}, it must be from 0 to 2^63 - 1"]


def uniform_numbers(seeds: list[int], count: int, device: torch.device) -> Tensor:
    """For each row `count` numbers from [0, 1) that follow from its seed alone, float32 [B, count]. More of them begin
    with the same ones."""
    rows = [torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(device)


def choose(logits: Tensor, sampling: Sampling, uniform: Tensor) -> Tensor:
    """Places among the choices, int64 [...], of float32 logits [..., C] and numbers from [0, 1) [...].

    By inverting the cumulative distribution: one number a choice decides, and no draw depends on C.
    """
    if sampling.temperature == 0:
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
    # Below the total even after rounding: what the threshold falls into then has a probability above 0.
    threshold = torch.minimum(uniform[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    places = torch.searchsorted(cumulative, threshold, right=True)
    return (places if order is None else order.gather(-1, places))[..., 0]


def guide(logits: Tensor, sampling: Sampling) -> Tensor:
    """Classifier-free guidance: [2B, ...], the conditional rows first, to [B, ...]; [B, ...] as it is where none."""
    if not sampling.guided:
        return logits
    conditional, unconditional = logits.chunk(2)
    return unconditional + sampling.guidance_scale * (conditional - unconditional)
