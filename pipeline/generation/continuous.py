"""Continuous batching: rows enter and leave a running batch at any position, and each is as if it were alone.

Each pass runs all rows of the cache in one shape; those that wait for another shape are idle in it, at a position that
no query sees. So the shapes of all matrix products are independent of the other rows, and what a row gets is what
`PictureGenerator` computes with `as_served` and as many rows, bit for bit on a CPU.

Shape letters: B rows, R rows of the cache (2B: the conditional ones first), T ids of a row in a pass, K ids chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config.vocabulary import Role, State
from pipeline.generation.decoder import Decoder
from pipeline.generation.sampling import Sampling, choose
from pipeline.generation.steps import Shape, Step, Steps
from pipeline.model.mars import MarsForCausalLM

PATIENCE, TURN = 64, 16
"""The shape of most rows runs first, since a pass takes as long for one row as for all. Rows that wait meanwhile for
`PATIENCE` passes are then run for `TURN` of them."""


@dataclass
class _Running:
    """A row at work: its steps, the one that is next, and who gets its result, or the exception that ended it."""

    steps: Steps
    step: Step
    done: Callable[[Any], None]


class ContinuousBatch:
    """Runs the steps of at most `num_rows` pictures, captions and documents at once.

    An exception of a row's own steps, prompt or choice ends that row. One of a pass that rows share leaves `advance`,
    since nobody knows which of them it is due to.

    Args:
        model: the model. The cache has its device and dtype.
        num_rows: B.
        capacity: maximum positions of a row.
    """

    def __init__(self, model: MarsForCausalLM, num_rows: int, capacity: int) -> None:
        self._decoder = Decoder(model, 2 * num_rows, capacity)
        self._vocabulary, self._device = model.config.vocabulary, self._decoder.device
        self.num_rows = num_rows
        self._rows: dict[int, _Running] = {}
        self._waited: dict[Shape, int] = {}
        self._last: Shape | None = None
        self._turn = 0

    @property
    def num_running(self) -> int:
        return len(self._rows)

    @property
    def num_free(self) -> int:
        return self.num_rows - len(self._rows)

    def start(self, steps: Steps, done: Callable[[Any], None]) -> int:
        """Gives the steps a free row. `done` gets their result, or an exception that ends this row alone, during
        `advance`. Returns the row's number."""
        row = next(row for row in range(self.num_rows) if row not in self._rows)
        self._rows[row] = _Running(steps, next(steps), done)
        return row

    def stop(self, row: int) -> None:
        """Frees a row whose result is not wanted any more."""
        self._rows.pop(row).steps.close()

    @torch.no_grad()
    def advance(self) -> int:
        """Runs one pass. Returns the number of rows that took part in it; 0 if there is no row."""
        if not self._rows:
            return 0
        for row, running in self._rows.items():
            if running.step.alone:
                try:
                    self._run_alone(row, running.step)
                except Exception as error:  # whoever asked for the row gets it
                    self._end(row, error)
                return 1
        shape = self._next_shape()
        concerned = [row for row, running in self._rows.items() if running.step.shape == shape]
        self._run_together(shape, concerned)
        return len(concerned)

    def _next_shape(self) -> Shape:
        counts: dict[Shape, int] = {}
        for running in self._rows.values():
            counts[running.step.shape] = counts.get(running.step.shape, 0) + 1
        self._waited = {shape: self._waited.get(shape, 0) + 1 for shape in counts}
        longest = max(counts, key=self._waited.__getitem__)
        if self._turn and self._last in counts:
            chosen = self._last
        elif self._waited[longest] > PATIENCE:
            chosen, self._turn = longest, TURN
        else:
            chosen = max(counts, key=lambda shape: (counts[shape], shape == self._last))
        self._waited[chosen], self._last, self._turn = 0, chosen, max(0, self._turn - 1)
        return chosen

    def _run_alone(self, row: int, step: Step) -> None:
        ids = torch.tensor([step.ids], device=self._device)
        offset = torch.arange(len(step.ids), device=self._device)[None]
        positions = offset + step.position
        if step.shape.visual:
            in_picture = offset + step.in_picture
            hidden = self._decoder.visual(ids, positions, in_picture, positions + 1, step.shape.num_slots, row)
        else:
            hidden = self._decoder.text(ids, positions, step.shape.num_slots, row)
        if step.shape.state is None:
            self._go_on(row, [])
        else:
            self._choose(self._decoder.logits(hidden[:, -1:], step.shape.state), [row], step.shape.state)

    def _run_together(self, shape: Shape, concerned: list[int]) -> None:
        hidden = self._hidden(shape, concerned)
        state, steps = shape.state, [self._rows[row].step for row in concerned]
        assert state is not None, "a pass of many rows chooses ids"
        logits = self._decoder.logits(hidden[:, -shape.group_size :], state)
        own = logits[concerned]
        if shape.guided:
            # As `guide`, with a scale for each row.
            unconditional = logits[[row + self.num_rows for row in concerned]]
            scales = self._floats([step.sampling.guidance_scale for step in steps])
            own = unconditional + scales[:, None, None] * (own - unconditional)
        self._choose(own, concerned, state)

    def _hidden(self, shape: Shape, concerned: list[int]) -> Tensor:
        """Runs the pass, with idle rows among them: [B or 2B, T, D]."""
        num_rows, num_ids = self.num_rows * (2 if shape.guided else 1), shape.num_ids
        offset = np.arange(num_ids)
        of_last = np.where(offset < num_ids - shape.group_size, offset + 1, num_ids)
        ids = np.full((num_rows, num_ids), self._vocabulary.code_offset if shape.visual else 0)
        positions = np.full((num_rows, num_ids), self._decoder.idle_position)
        in_picture, seen = np.zeros_like(ids), np.ones_like(ids)
        for row in concerned:
            step = self._rows[row].step
            halves = [(row, step.position)] + ([(row + self.num_rows, step.in_picture)] if shape.guided else [])
            for place, position in halves:
                ids[place], positions[place] = step.ids, position + offset
                in_picture[place], seen[place] = step.in_picture + offset, position + of_last
        ids_BT, at_BT, in_picture_BT, seen_BT = (
            torch.from_numpy(each).to(self._device) for each in (ids, positions, in_picture, seen)
        )
        if shape.visual:
            return self._decoder.visual(ids_BT, at_BT, in_picture_BT, seen_BT, shape.num_slots)
        return self._decoder.text(ids_BT, at_BT, shape.num_slots)

    def _choose(self, logits: Tensor, rows: list[int], state: State) -> None:
        """Goes on with joint ids chosen from the logits [rows, K, choices], each row by its own settings."""
        allowed, steps = self._vocabulary.allowed(state), [self._rows[row].step for row in rows]
        if state is State.TEXT:
            for role in Role:
                closed = [role not in step.openers for step in steps]
                column = int(allowed.places(torch.tensor(self._vocabulary.opener(role))))
                logits[:, :, column].masked_fill_(torch.tensor(closed, device=self._device)[:, None], float("-inf"))
        by_sampling: dict[Sampling, list[int]] = {}
        for place, step in enumerate(steps):
            by_sampling.setdefault(step.sampling, []).append(place)
        for sampling, places in by_sampling.items():
            concerned = [rows[place] for place in places]
            numbers = self._floats([steps[place].numbers for place in places])
            try:
                chosen: list[list[int]] = allowed.ids(choose(logits[places], sampling, numbers)).tolist()
            except Exception as error:  # these settings cannot be sampled with; the other rows have their own
                for row in concerned:
                    self._end(row, error)
                continue
            for row, own in zip(concerned, chosen, strict=True):
                self._go_on(row, own)

    def _floats(self, values: list[Any]) -> Tensor:
        """In float32, whatever torch's default is: transformers changes it while a server loads another model."""
        return torch.tensor(values, dtype=torch.float32, device=self._device)

    def _go_on(self, row: int, chosen: list[int]) -> None:
        running = self._rows[row]
        try:
            running.step = running.steps.send(chosen)
        except StopIteration as ended:
            self._end(row, ended.value)
        except Exception as error:  # whoever asked for the row gets it
            self._end(row, error)

    def _end(self, row: int, result: Any) -> None:
        running = self._rows.pop(row)
        running.steps.close()
        running.done(result)
