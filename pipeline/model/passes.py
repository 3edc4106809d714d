"""The inputs of a layer for a micro-batch, apart from its hidden states.

Shape letters: B rows, T positions, Tt and Tv text and visual ones, d head size.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from pipeline.model.routing import Routing

Rotary = tuple[Tensor, Tensor]
"""Cosine and sine, each [B, T, d]."""


@dataclass(frozen=True)
class JointPass:
    """Text and pictures in any order, with gradients through both.

    Attributes:
        routing: joins and splits the streams.
        rotary: of all positions.
        attention_mask: in the attention function's form; see `pipeline.model.attention`.
        cache: keys and values of earlier positions, for generation with transformers.
        name: for the stopwatch.
        attentions: gets the probabilities of each layer's attention, if given.
    """

    routing: Routing
    rotary: Rotary
    attention_mask: Any
    cache: Cache | None = None
    name: str = ""
    attentions: list[Tensor] | None = None

    def to(self, device: Any, **how: Any) -> "JointPass":
        """The pass for a layer on another device: accelerate asks for it where layers are on several devices."""
        mask = self.attention_mask.to(device, **how) if isinstance(self.attention_mask, Tensor) else self.attention_mask
        cosine, sine = (each.to(device, **how) for each in self.rotary)
        return replace(self, routing=self.routing.to(device), rotary=(cosine, sine), attention_mask=mask)


@dataclass(frozen=True)
class PrefixPass:
    """Text before the pictures in every sample. It depends on frozen weights only, and runs without a gradient.

    Attributes:
        text_rotary, text_mask: of the text, Tt queries and keys.
        visual_rotary: of the pictures.
        visual_mask: Tv queries, Tt + Tv keys.
        name: for the stopwatch.
    """

    text_rotary: Rotary
    text_mask: Any
    visual_rotary: Rotary
    visual_mask: Any
    name: str = ""
