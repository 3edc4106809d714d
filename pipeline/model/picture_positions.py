"""Encodes a visual id's position in its picture, which is added to the id's embedding.

Rotary positions encode only the distance of two positions. A model has to infer the index of a code in its picture from
these distances, which takes layers and training. In a small model the later codes then depend on the earlier ones, and
hardly on the caption or on the base picture. An encoding of the position in the picture, the sinusoids of Vaswani 2017
(arXiv 1706.03762, 3.5), gives the index directly. Not in the paper: no source tells whether its model has one.

Shape letters: B rows, T positions, D hidden size.
"""

import math

import torch
from torch import Tensor

SLOWEST = 1000.0
"""The slowest sinusoid's wavelength is 2 pi times this, in positions of the picture; the fastest one's 2 pi."""


def picture_positions(ids: Tensor, opener: int) -> Tensor:
    """Distance of each of the joint ids [B, T] from the last `opener` before it in its row, int64; 0 before the first.

    A high-resolution picture directly follows its base picture, and its positions count from that one's opener.
    """
    return _since(last_openers(ids, opener), 0)


def picture_positions_after(ids: Tensor, opener: int, num_before: int, last_opener: Tensor) -> Tensor:
    """As `picture_positions`, for ids [B, T] that follow `num_before` other ids; `last_opener` [B] is the index of the
    last opener among those (see `last_openers`)."""
    own = last_openers(ids, opener)
    own = torch.where(own < 0, own, own + num_before)
    return _since(torch.maximum(own, last_opener[:, None]), num_before)


def last_openers(ids: Tensor, opener: int) -> Tensor:
    """The index, in its row, of the last `opener` up to each of the ids [B, T]: int64, -1 if there is none."""
    number = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return torch.where(ids == opener, number, -1).cummax(dim=1).values


def _since(last_opener: Tensor, num_before: int) -> Tensor:
    number = torch.arange(num_before, num_before + last_opener.shape[1], device=last_opener.device)
    return torch.where(last_opener < 0, 0, number - last_opener)


def position_encoding(positions: Tensor, dim: int, std: float) -> Tensor:
    """Sines and cosines of positions [...]: float32 [..., dim], with root mean square `std`."""
    exponents = torch.arange(dim // 2, dtype=torch.float32, device=positions.device) / (dim // 2)
    angles = positions[..., None].float() * torch.exp(-math.log(SLOWEST) * exponents)
    return math.sqrt(2) * std * torch.cat([angles.sin(), angles.cos()], dim=-1)
