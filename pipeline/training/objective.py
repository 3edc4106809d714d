"""The training objective: turns the micro-batches of one micro-step into their share of the step's loss."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config.tasks import Task
from pipeline.config.vocabulary import NORMALISATIONS, State
from pipeline.data.collate import Labels, MicroBatch
from pipeline.model.attention import attention_mask
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.stopwatch import Stopwatch
from pipeline.runtime.transformers_private import attention_of


@dataclass(frozen=True)
class MicroLoss:
    """The losses of one micro-step.

    `loss` is differentiated. `task_losses` (summed cross-entropy) and `task_labels` (label counts) are float32 [tasks]
    without gradient.
    """

    loss: Tensor
    task_losses: Tensor
    task_labels: Tensor


class Objective(nn.Module):
    """`MarsForCausalLM` with its training loss.

    Args:
        model: the model to train.
        normalisation: one of `NORMALISATIONS`.
    """

    def __init__(self, model: MarsForCausalLM, normalisation: str = "state") -> None:
        super().__init__()
        assert normalisation in NORMALISATIONS
        self.mars = model
        self.normalisation = normalisation
        self.watch: Stopwatch | None = None

    def forward(self, batches: list[MicroBatch]) -> MicroLoss:
        """Returns the loss of one micro-step, which has a batch of each kind.

        A step's loss is the sum over its micro-steps and ranks. `watch`, if given, gets a lap for each kind, under the
        kind's name in lower case.
        """
        loss = batches[0].text_labels.weights.new_zeros(())
        task_losses, task_labels = loss.new_zeros(len(Task)), loss.new_zeros(len(Task))
        if self.watch:
            self.watch.start()
        for batch in batches:
            hidden = torch.cat(self.hidden_states(batch), dim=1).flatten(0, 1)
            for state, labels in self._states(batch):
                part, losses = self.mars.head(hidden.index_select(0, labels.index), state, labels.ids, labels.weights)
                loss = loss + part
                task_losses.index_add_(0, labels.tasks, losses)
                task_labels.index_add_(0, labels.tasks, torch.ones_like(losses))
            if self.watch:
                self.watch.lap(batch.kind.name.lower())
        return MicroLoss(loss, task_losses, task_labels)

    def hidden_states(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Returns the final hidden states of both streams, [B, Tt, D] and [B, Tv, D]."""
        model, text, visual = self.mars.model, batch.text, batch.visual
        attention = attention_of(self.mars)
        everything = text.places.followed_by(visual.places)
        if not batch.kind.has_text_prefix:
            mask = attention_mask(everything, everything, attention, self.mars.dtype)
            return model.forward_streams(text.ids, visual.ids, text.positions, visual.positions, mask)
        mask = attention_mask(text.places, text.places, attention, self.mars.dtype)
        hidden, prefix = model.forward_prefix(text.ids, text.positions, mask)
        mask = attention_mask(visual.places, everything, attention, self.mars.dtype)
        return hidden, model.forward_after_prefix(visual.ids, prefix, visual.positions, mask)

    def _states(self, batch: MicroBatch) -> list[tuple[State | None, Labels]]:
        """Returns the states that the head runs on, each with its labels.

        The choice depends on the kind alone: if one rank skipped a head, the others would wait for it.
        """
        if self.normalisation == "joint":
            both = (batch.text_labels, batch.code_labels)
            return [(None, Labels(*(torch.cat(parts) for parts in zip(*map(_tensors, both), strict=True))))]
        states: list[tuple[State | None, Labels]] = [(State.TEXT, batch.text_labels)]
        return states + ([(State.CODES, batch.code_labels)] if batch.kind.predicts_codes else [])


def _tensors(labels: Labels) -> tuple[Tensor, ...]:
    return labels.index, labels.ids, labels.weights, labels.tasks
