"""The training objective: the micro-batches of one micro-step in, their part of the step's loss out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.collate import MicroBatch
from pipeline.model import MarsForCausalLM
from pipeline.sequences import Kind, Task
from pipeline.vocabulary import State


@dataclass(frozen=True)
class MicroLoss:
    """`loss` is what is differentiated; `task_losses` the summed cross-entropy and `task_labels` the label count
    of each task, float32 [tasks], without gradient."""

    loss: Tensor
    task_losses: Tensor
    task_labels: Tensor


class Objective(nn.Module):
    """`MarsForCausalLM` with its training loss."""

    def __init__(self, model: MarsForCausalLM) -> None:
        super().__init__()
        self.mars = model

    def forward(self, batches: list[MicroBatch]) -> MicroLoss:
        """The loss of one micro-step, which has a batch of each kind; a step's loss is the sum over its micro-steps
        and ranks."""
        loss = batches[0].text_labels.weights.new_zeros(())
        task_losses, task_labels = loss.new_zeros(len(Task)), loss.new_zeros(len(Task))
        for batch in batches:
            text, visual = self._hidden_states(batch)
            # Which states run follows from the kind alone: a rank that skipped one would leave the others waiting.
            parts = [(State.TEXT, text, batch.text_labels)]
            if batch.kind is Kind.TEXT_TO_IMAGE:
                parts.append((State.CODES, visual, batch.code_labels))
            for state, hidden, labels in parts:
                part, losses = self.mars.head(hidden.index_select(0, labels.index), state, labels.rows, labels.weights)
                loss = loss + part
                task_losses.index_add_(0, labels.tasks, losses)
                task_labels.index_add_(0, labels.tasks, torch.ones_like(losses))
        return MicroLoss(loss, task_losses, task_labels)

    def _hidden_states(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """What the text labels' and the code labels' indices point into, [positions, D]."""
        model = self.mars.model
        if batch.kind is Kind.TEXT_TO_IMAGE:
            assert batch.text and batch.visual
            text, prefix = model.forward_prefix(batch.text.ids, batch.text.positions, batch.text.mask)
            visual = model.forward_after_prefix(batch.visual.ids, prefix, batch.visual.positions, batch.visual.mask)
            return text.flatten(0, 1), visual.flatten(0, 1)
        assert batch.joint
        output = model(batch.joint.ids, batch.joint.mask, batch.joint.positions, routing=batch.routing)
        hidden = output.last_hidden_state.flatten(0, 1)
        return hidden, hidden
