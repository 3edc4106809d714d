"""The training objective: turns the micro-batches of one micro-step into their share of the step's loss."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.architecture.masks import attention_mask
from pipeline.config.tasks import Task
from pipeline.config.vocabulary import NORMALISATIONS, State
from pipeline.data.collate import Labels, MicroBatch
from pipeline.model.backbone import PackedBatch
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
        z_loss: see `StageConfig`; the losses by task are without it.
    """

    def __init__(self, model: MarsForCausalLM, normalisation: str = "state", z_loss: float = 0.0) -> None:
        super().__init__()
        assert normalisation in NORMALISATIONS
        self.mars = model
        self.normalisation = normalisation
        self.z_loss = z_loss
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
        for batch, states in zip(batches, self.hidden_states(batches), strict=True):
            hidden = torch.cat(states, dim=1).flatten(0, 1)
            for state, labels in self.states(batch):
                chosen = hidden.index_select(0, labels.index)
                part, losses = self.mars.head(chosen, state, labels.ids, labels.weights, self.z_loss)
                loss = loss + part
                task_losses.index_add_(0, labels.tasks, losses)
                task_labels.index_add_(0, labels.tasks, torch.ones_like(losses))
            if self.watch:
                self.watch.lap(_name(batch))
        return MicroLoss(loss, task_losses, task_labels)

    def hidden_states(self, batches: list[MicroBatch]) -> list[tuple[Tensor, Tensor]]:
        """Returns the final hidden states of both streams of each batch, [B, Tt, D] and [B, Tv, D]."""
        return self.mars.model.forward_packed([self.packed(batch) for batch in batches], self.watch)

    def packed(self, batch: MicroBatch) -> PackedBatch:
        """Returns the model's input, with the masks in the form of its attention function."""
        return packed_batch(batch, attention_of(self.mars), self.mars.dtype)

    def states(self, batch: MicroBatch) -> list[tuple[State | None, Labels]]:
        """Returns the states that the head runs on, each with its labels.

        The choice depends on the kind alone: if one rank skipped a head, the others would wait for it.
        """
        if self.normalisation == "joint":
            both = (batch.text_labels, batch.code_labels)
            return [(None, Labels(*(torch.cat(parts) for parts in zip(*map(_tensors, both), strict=True))))]
        states: list[tuple[State | None, Labels]] = [(State.TEXT, batch.text_labels)]
        return states + ([(State.CODES, batch.code_labels)] if batch.kind.predicts_codes else [])


def packed_batch(batch: MicroBatch, attention: str, dtype: torch.dtype) -> PackedBatch:
    """Returns a model's input, with masks for the attention function."""
    places = batch.attentions
    masks = [
        attention_mask(*each, attention, dtype, blocks)
        for each, blocks in zip(places, batch.blocks or [None] * len(places), strict=True)
    ]
    return PackedBatch(
        batch.text.ids,
        batch.visual.ids,
        batch.text.positions,
        batch.visual.positions,
        masks[0],
        masks[1] if len(masks) > 1 else None,
        _name(batch),
    )


def _tensors(labels: Labels) -> tuple[Tensor, ...]:
    return labels.index, labels.ids, labels.weights, labels.tasks


def _name(batch: MicroBatch) -> str:
    return batch.kind.name.lower()
