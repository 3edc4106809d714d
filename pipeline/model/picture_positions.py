"""Where in its picture a visual id stands, told to the visual expert by the id's embedding.

Rotary positions tell how far apart two positions are. At which of its codes a picture is, a model has to infer from
that, which takes layers and training; in a small one the later codes then follow from those before them, and hardly
from the caption or from the base picture. An encoding of the position in the picture, the sinusoids of Vaswani 2017
(arXiv 1706.03762, 3.5), added to the embedding, says it outright. Ours: no source says what the paper's model has.

Shape letters: B rows, T positions, D hidden size.
"""

import math

import torch
from torch import Tensor

SLOWEST = 1000.0
"""The slowest sinusoid's wavelength is 2 pi times this, in positions of the picture; the fastest one's 2 pi."""


def picture_positions(ids: Tensor, opener: int) -> Tensor:
    """How many positions each of the joint ids [B, T] is behind the last `opener` of its row, int64; 0 before the
    first. A high-resolution picture, which follows its base picture at once, counts on from that one's opener."""
    return _since(last_openers(ids, opener), 0)


def picture_positions_after(ids: Tensor, opener: int, num_before: int, last_opener: Tensor) -> Tensor:
    """The same of ids [B, T] that come after `num_before` others, where `last_opener` [B] (see `last_openers`) was
    among those."""
    own = last_openers(ids, opener)
    own = torch.where(own < 0, own, own + num_before)
    return _since(torch.maximum(own, last_opener[:, None]), num_before)


def last_openers(ids: Tensor, opener: int) -> Tensor:
    """The number, in its row, of the last `opener` up to each of the ids [B, T]: int64, -1 where there is none."""
    number = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return torch.where(ids == opener, number, -1).cummax(dim=1).values


def _since(last_opener: Tensor, num_before: int) -> Tensor:
    number = torch.arange(num_before, num_before + last_opener.shape[1], device=last_opener.device)
    return torch.where(last_opener < 0, 0, number - last_opener)


def position_encoding(positions: Tensor, dim: int, std: float) -> Tensor:
    """Sines and cosines of positions [...]: float32 [..., dim], of root mean square `std`."""
    exponents = torch.arange(dim // 2, device=positions.device) / (dim // 2)
    angles = positions[..., None].float() * torch.exp(-math.log(SLOWEST) * exponents)
    return math.sqrt(2) * std * torch.cat([angles.sin(), angles.cos()], dim=-1)
