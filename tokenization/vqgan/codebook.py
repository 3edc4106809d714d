"""The VQ-GAN's codebook, learned by moving averages.

Shape letters: N latents of a step, D channels, K codes.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

LLOYD_STEPS = 10
NEAREST_CHUNK = 4096
"""Number of latents whose distances to all codes are held at once."""


class Codebook(nn.Module):
    """Vector quantization whose codes are moving averages of their assigned latents (van den Oord 2017, A.1)."""

    codes_KD: Tensor
    sum_KD: Tensor
    usage_K: Tensor

    def __init__(self, codebook_size: int, dim: int, decay: float, dead_code_usage: float) -> None:
        super().__init__()
        self.decay, self.dead_code_usage = decay, dead_code_usage
        self.register_buffer("codes_KD", torch.zeros(codebook_size, dim))
        self.register_buffer("sum_KD", torch.zeros(codebook_size, dim))
        self.register_buffer("usage_K", torch.zeros(codebook_size))

    def nearest(self, latents_ND: Tensor) -> Tensor:
        """Index of the nearest code, int64 [N]."""
        norm_K = self.codes_KD.square().sum(1)
        chunks = latents_ND.float().split(NEAREST_CHUNK)
        with torch.autocast(latents_ND.device.type, enabled=False):
            return torch.cat([torch.addmm(norm_K, chunk, self.codes_KD.T, alpha=-2).argmin(1) for chunk in chunks])

    @torch.no_grad()
    def update(self, latents_ND: Tensor, index_N: Tensor, generator: torch.Generator) -> int:
        """Moves the codes towards this step's latents, and dead ones to latents that have no code nearby.

        Returns how many were moved.
        """
        num_codes = len(self.usage_K)
        count_K = torch.bincount(index_N, minlength=num_codes).float()
        sum_KD = torch.zeros_like(self.sum_KD).index_add_(0, index_N, latents_ND)
        if dist.is_initialized():
            dist.all_reduce(count_K)
            dist.all_reduce(sum_KD)
        self.usage_K.lerp_(count_K, 1 - self.decay)
        self.sum_KD.lerp_(sum_KD, 1 - self.decay)
        alive_K = self.usage_K > self.dead_code_usage
        self.codes_KD[alive_K] = self.sum_KD[alive_K] / self.usage_K[alive_K, None]
        error_N = (latents_ND - self.codes_KD[index_N]).square().sum(1)
        return self._move(torch.nonzero(~alive_K).flatten(), latents_ND, error_N, generator)

    @torch.no_grad()
    def cluster(self, latents_ND: Tensor, generator: torch.Generator) -> None:
        """Sets the codes by k-means over these latents (Lloyd 1982), which begins with codes that are far apart."""
        first_KD = spread_codes(latents_ND, len(self.usage_K), generator)
        codes_KD = self.codes_KD.clone()
        codes_KD[: len(first_KD)] = first_KD
        for _ in range(LLOYD_STEPS):
            self.take(codes_KD)
            index_N = self.nearest(latents_ND)
            count_K = torch.bincount(index_N, minlength=len(codes_KD))
            sum_KD = torch.zeros_like(codes_KD).index_add_(0, index_N, latents_ND)
            used_K = count_K > 0
            codes_KD[used_K] = sum_KD[used_K] / count_K[used_K, None]
            unused = torch.nonzero(~used_K).flatten()
            error_N = (latents_ND - codes_KD[index_N]).square().sum(1)
            codes_KD[unused] = latents_ND[_drawn(error_N, len(unused), generator)]
        self.take(codes_KD)

    @torch.no_grad()
    def take(self, codes_KD: Tensor) -> None:
        """Sets the codes, with statistics as if each had been used for a while at twice the threshold."""
        self.codes_KD.copy_(codes_KD)
        self.usage_K.fill_(2 * self.dead_code_usage)
        self.sum_KD.copy_(self.codes_KD * self.usage_K[:, None])

    def _move(self, codes: Tensor, latents_ND: Tensor, error_N: Tensor, generator: torch.Generator) -> int:
        # At most one code per latent: more would only be duplicates.
        codes = codes[torch.randperm(len(codes), generator=generator)[: len(latents_ND)].to(codes.device)]
        picked = latents_ND[_drawn(error_N, len(codes), generator)]
        if dist.is_initialized():
            dist.broadcast(picked, src=0)
        self.codes_KD[codes] = picked
        # As if used for a while at twice the threshold: enough time to win its own latents.
        self.usage_K[codes] = 2 * self.dead_code_usage
        self.sum_KD[codes] = picked * self.usage_K[codes, None]
        return len(codes)


def spread_codes(latents_ND: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws latents that are far apart, one after the other: each with a probability in proportion to its squared
    distance to the nearest one before it (k-means++, Arthur 2007).

    Half of a drawing's patches are blank, and their latents differ by next to nothing. Drawn uniformly, half of the
    codes would be blank, too.

    Returns:
        [at most count, D]: fewer if there are fewer different latents.
    """
    chosen = [int(torch.randint(len(latents_ND), (), generator=generator))]
    distance_N = (latents_ND - latents_ND[chosen[0]]).square().sum(1)
    while len(chosen) < count and distance_N.any():
        chosen.append(int(_drawn(distance_N, 1, generator)))
        distance_N = torch.minimum(distance_N, (latents_ND - latents_ND[chosen[-1]]).square().sum(1))
    return latents_ND[chosen]


def _drawn(weight_N: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws `count` indices in proportion to the weights, int64; an index can come again."""
    sum_N = weight_N.double().cumsum(0)
    at = torch.rand(count, generator=generator, dtype=torch.float64).to(sum_N.device) * sum_N[-1]
    return torch.searchsorted(sum_N, at, right=True).clamp(max=len(sum_N) - 1)
