"""Which positions of a batch are text and which are visual, as indices.

Built once a batch; the layers then gather, run each expert once, and put the results back by index,
with nothing that depends on values the host would have to wait for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """Indices into the flattened batch [B*T], int64.

    `restore` undoes `cat(text, visual)`: position p of the batch is row `restore[p]` of the concatenation.
    """

    text_index: Tensor
    visual_index: Tensor
    restore: Tensor

    @classmethod
    def of(cls, input_ids: Tensor, text_vocab_size: int) -> "Routing":
        """Routes every id at or above `text_vocab_size` to the visual expert."""
        is_visual = input_ids.flatten() >= text_vocab_size
        text_index, visual_index = torch.nonzero(~is_visual).flatten(), torch.nonzero(is_visual).flatten()
        restore = torch.empty_like(is_visual, dtype=torch.int64)
        order = torch.cat([text_index, visual_index])
        restore[order] = torch.arange(len(order), device=order.device)
        return cls(text_index, visual_index, restore)

    def to(self, device: torch.device) -> "Routing":
        """The same indices on another device."""
        return Routing(self.text_index.to(device), self.visual_index.to(device), self.restore.to(device))

    def join(self, text: Tensor, visual: Tensor) -> Tensor:
        """Rows of both streams, [Nt, ...] and [Nv, ...], in the batch's order [B*T, ...]."""
        if not len(visual):
            return text  # all text: already in order, and bit for bit the base model's tensor
        if not len(text):
            return visual
        return torch.cat([text, visual])[self.restore]

    def split(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse of `join`."""
        if not len(self.visual_index):
            return joint, joint[:0]
        if not len(self.text_index):
            return joint[:0], joint
        return joint[self.text_index], joint[self.visual_index]
