"""The joint head: logits over both vocabularies, or the loss in one state."""

import torch
from torch import Tensor, nn

from pipeline.architecture.mars_config import MarsConfig
from pipeline.config.vocabulary import State
from pipeline.model.loss import linear_cross_entropy


class JointHead(nn.Module):
    """A frozen matrix over the text vocabulary and a trained one over the visual rows.

    One module owns both and computes the loss itself, because ZeRO-3 gathers a partitioned weight only while the module
    that owns it runs.
    """

    def __init__(self, config: MarsConfig) -> None:
        super().__init__()
        self.vocabulary = config.vocabulary
        self.text_weight = nn.Parameter(torch.empty(config.text_vocab_size, config.hidden_size))
        self.visual_weight = nn.Parameter(torch.empty(config.vocabulary.num_visual, config.hidden_size))
        for weight in self.parameters():
            nn.init.normal_(weight, std=config.initializer_range)

    @property
    def weight(self) -> Tensor:
        """A copy of both matrices, one above the other: what tools of transformers look for in a head."""
        return torch.cat([self.text_weight, self.visual_weight])

    def forward(
        self,
        hidden: Tensor,
        state: State | None = None,
        labels: Tensor | None = None,
        weights: Tensor | None = None,
        z_loss: float = 0.0,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Returns logits [..., rows] over the ids that `state` allows (None: all ids); or, with labels, the loss.

        Args:
            hidden: normed hidden states [..., D]; [L, D] with labels.
            state: decides the ids that the logits cover: text rows first, then visual rows.
            labels: int64 [L], joint ids that `state` allows.
            weights: float32 [L], the weight of each label in the sum.
            z_loss: see `linear_cross_entropy`.

        Returns:
            With labels: the weighted sum of the losses, and the single losses [L].
        """
        allowed = self.vocabulary.allowed(state)
        text_weight = self.text_weight if allowed.num_text else None
        visual_weight = self.visual_weight[allowed.visual_rows]
        if labels is not None:
            assert weights is not None
            return linear_cross_entropy(hidden, text_weight, visual_weight, allowed.places(labels), weights, z_loss)
        visual = nn.functional.linear(hidden, visual_weight)
        if text_weight is None:
            return visual
        return torch.cat([nn.functional.linear(hidden, text_weight), visual], dim=-1)
