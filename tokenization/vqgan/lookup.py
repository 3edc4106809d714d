"""How the code of a latent is found: it is the one with the largest score, and scores are linear in the latent.

Shape letters: N latents, D their channels, K codes.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lookup:
    """The scores of the codes are `latents_ND @ weights_KD.T + biases_K`, all in float32."""

    weights_KD: Tensor
    biases_K: Tensor

    @classmethod
    def nearest(cls, codes_KD: Tensor) -> Self:
        """Takes the nearest code: |z - e|^2 = |z|^2 - 2 (z e - |e|^2 / 2), and |z|^2 is the same for all codes."""
        rows_KD = codes_KD.detach().float()
        return cls(rows_KD, rows_KD.square().sum(1) / -2)

    @classmethod
    def largest_product(cls, codes_KD: Tensor) -> Self:
        """Takes the code with the largest dot product."""
        rows_KD = codes_KD.detach().float()
        return cls(rows_KD, rows_KD.new_zeros(len(rows_KD)))

    def to(self, device: torch.device) -> Self:
        """A copy on the device."""
        return type(self)(self.weights_KD.to(device, copy=True), self.biases_K.to(device, copy=True))

    def codes_of(self, latents_ND: Tensor) -> Tensor:
        """The code of each latent, int64 [N]. Latents are float32."""
        return (latents_ND @ self.weights_KD.T + self.biases_K).argmax(1)
