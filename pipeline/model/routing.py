"""Routes a batch's positions to the text or the visual expert, and joins both streams for the attention.

There are two forms. In training, rows hold all text, then all pictures: the attention mask and the rotary positions
carry a sample's order, so contiguous slices are enough. A batch in any other order, as in generation, is routed by an
index.

Shape letters: B rows, T positions of a row, Tt and Tv its text and visual ones, Nt and Nv those of the batch.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Routing(Protocol):
    """Joins both experts' streams into the attention's order and splits the attention's result."""

    def join(self, text: Tensor, visual: Tensor) -> Tensor:
        """Both streams as [B, T, ...]."""

    def split(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse of `join`."""

    def to(self, device: Any) -> "Routing":
        """The same routing on another device."""


@dataclass(frozen=True)
class StreamRouting:
    """Streams [B, Tt, ...] and [B, Tv, ...]: in every row all text, then all pictures."""

    num_text: int

    def join(self, text: Tensor, visual: Tensor) -> Tensor:
        """Text, then pictures: [B, Tt + Tv, ...]."""
        return torch.cat([text, visual], dim=1)

    def split(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse of `join`."""
        return joint[:, : self.num_text], joint[:, self.num_text :]

    def to(self, device: Any) -> "StreamRouting":
        """The routing itself: it has no tensors."""
        return self


@dataclass(frozen=True)
class IndexRouting:
    """Streams [Nt, ...] and [Nv, ...] of a batch with text and pictures in any order.

    Indices are int64 into the flattened batch [B*T]. `restore` undoes `cat(text, visual)`: position p of the batch is
    row `restore[p]` of the concatenation.
    """

    text_index: Tensor
    visual_index: Tensor
    restore: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, input_ids: Tensor, text_vocab_size: int) -> "IndexRouting":
        """Builds the routing of ids [B, T]: every id at or above `text_vocab_size` goes to the visual expert."""
        is_visual = input_ids.flatten() >= text_vocab_size
        text_index, visual_index = torch.nonzero(~is_visual).flatten(), torch.nonzero(is_visual).flatten()
        restore = torch.empty_like(is_visual, dtype=torch.int64)
        order = torch.cat([text_index, visual_index])
        restore[order] = torch.arange(len(order), device=order.device)
        return cls(text_index, visual_index, restore, (input_ids.shape[0], input_ids.shape[1]))

    def join(self, text: Tensor, visual: Tensor) -> Tensor:
        """Both streams in the batch's order, [B, T, ...]."""
        if not len(visual):
            joint = text  # text only: already in order, and bit-identical to the base model's tensor
        elif not len(text):
            joint = visual
        else:
            joint = torch.cat([text, visual])[self.restore]
        shaped: Tensor = joint.unflatten(0, self.shape)
        return shaped

    def split(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse of `join`."""
        joint = joint.flatten(0, 1)
        if not len(self.visual_index):
            return joint, joint[:0]
        if not len(self.text_index):
            return joint[:0], joint
        return joint[self.text_index], joint[self.visual_index]

    def to(self, device: Any) -> "IndexRouting":
        """The same routing on another device."""
        return IndexRouting(
            self.text_index.to(device), self.visual_index.to(device), self.restore.to(device), self.shape
        )
