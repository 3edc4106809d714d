"""The figures of an optimizer step, as the training loop reports them and a stage's folder stores them as JSON
lines."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"
VALIDATION_FILE = "validation.jsonl"
"""Figures of checkpoints that were validated while the stage trained on, one line each."""


@dataclass(frozen=True)
class CheckpointStall:
    """The time for which training stood still for a checkpoint.

    Attributes:
        seconds: duration of the stall.
        share: share of the time since the previous checkpoint.
    """

    seconds: float
    share: float


@dataclass(frozen=True)
class AttemptStart:
    """How long an attempt at a stage took to its first step.

    Attributes:
        began_at: when the attempt began, in seconds of the wall clock.
        seconds: seconds of its parts in their order: `workers` until the loop runs on rank 0, `model` until the engine
            is made, `checkpoint` until weights and moments are restored, `step` until the first step is done.
    """

    began_at: float
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class StepFigures:
    """The figures of one optimizer step. Counts are over all ranks, times are rank 0's.

    Attributes:
        step: counts from 1.
        losses: mean cross-entropy per label by task, nats; tasks with a loss that is not finite are left out.
        gradient_norm: norm before clipping; None if it is not finite or the step was skipped.
        learning_rate: learning rate of the step, before the factor of a parameter group.
        samples, tokens: numbers of samples and tokens that the step processed.
        padding_fraction: share of the processed positions that hold no token.
        flop: model FLOP.
        flop_by_kind: the same by kind of sample.
        update_s: seconds of the optimizer's update.
        forward_s_by_kind: seconds of the forward passes by kind of sample.
        step_s: seconds of the whole step, `data_wait_s` included.
        data_wait_s: seconds that the step waited for its samples.
        skipped_steps: steps of the stage whose update was not applied, so far.
        mfu: model FLOP utilisation; None if the device's peak is unknown.
        validation: figures of `pipeline.training.validation.validate` after the step.
        checkpoint: stall of a checkpoint that began after the previous step, or None.
        between_steps_s: seconds after the step for validation, samples and comparisons.
        start: start of the attempt, if this is its first step.
    """

    step: int
    losses: Mapping[str, float] = field(default_factory=dict)
    gradient_norm: float | None = None
    learning_rate: float = 0.0
    samples: int = 0
    tokens: int = 0
    padding_fraction: float = 0.0
    flop: float = 0.0
    flop_by_kind: Mapping[str, float] = field(default_factory=dict)
    update_s: float = 0.0
    forward_s_by_kind: Mapping[str, float] = field(default_factory=dict)
    step_s: float = 0.0
    data_wait_s: float = 0.0
    skipped_steps: int = 0
    mfu: float | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    checkpoint: CheckpointStall | None = None
    between_steps_s: float = 0.0
    start: AttemptStart | None = None

    def to_json(self) -> dict[str, float]:
        """Returns the figures by their names in `METRICS_FILE` and in the trackers."""
        measured: dict[str, float | None] = {
            **_prefixed("loss", self.losses),
            "gradient_norm": self.gradient_norm,
            "step": self.step,
            "learning_rate": self.learning_rate,
            "samples": self.samples,
            "tokens": self.tokens,
            "padding_fraction": self.padding_fraction,
            "flop": self.flop,
            "update_s": self.update_s,
            **_prefixed("flop", self.flop_by_kind),
            **_prefixed("forward_s", self.forward_s_by_kind),
            "step_s": self.step_s,
            "data_wait_s": self.data_wait_s,
            "skipped_steps": self.skipped_steps,
            "mfu": self.mfu,
            **_prefixed("validation", self.validation),
            "checkpoint_stall_s": self.checkpoint.seconds if self.checkpoint else None,
            "checkpoint_stall_share": self.checkpoint.share if self.checkpoint else None,
            "between_steps_s": self.between_steps_s,
            "start_at": self.start.began_at if self.start else None,
            **_prefixed("start_s", self.start.seconds if self.start else {}),
        }
        return {name: value for name, value in measured.items() if value is not None}

    @classmethod
    def from_json(cls, line: Mapping[str, float]) -> "StepFigures":
        """Reads what `to_json` gave; figures that an earlier version did not write are 0 or None."""
        stall = None
        if "checkpoint_stall_s" in line:
            stall = CheckpointStall(line["checkpoint_stall_s"], line.get("checkpoint_stall_share", math.nan))
        start = AttemptStart(line["start_at"], _of_prefix("start_s", line)) if "start_at" in line else None
        return cls(
            step=int(line["step"]),
            losses=_of_prefix("loss", line),
            gradient_norm=line.get("gradient_norm"),
            learning_rate=line.get("learning_rate", 0.0),
            samples=int(line.get("samples", 0)),
            tokens=int(line.get("tokens", 0)),
            padding_fraction=line.get("padding_fraction", 0.0),
            flop=line.get("flop", 0.0),
            flop_by_kind=_of_prefix("flop", line),
            update_s=line.get("update_s", 0.0),
            forward_s_by_kind=_of_prefix("forward_s", line),
            step_s=line.get("step_s", 0.0),
            data_wait_s=line.get("data_wait_s", 0.0),
            skipped_steps=int(line.get("skipped_steps", 0)),
            mfu=line.get("mfu"),
            validation=_of_prefix("validation", line),
            checkpoint=stall,
            between_steps_s=line.get("between_steps_s", line.get("beside_s", 0.0)),
            start=start,
        )


def read_step_figures(stage: Path) -> list[StepFigures]:
    """Returns the figures of every step in the order of execution, including steps that were lost and repeated.

    A line that was torn by a crash of the machine is skipped: its step ran, but its figures are lost.

    Args:
        stage: folder of the stage.
    """
    beside = {each.step: each.figures for each in read_validations(stage)}
    found = [StepFigures.from_json(line) for line in _lines(stage / METRICS_FILE)]
    return [replace(each, validation=each.validation or beside.get(each.step, {})) for each in found]


@dataclass(frozen=True)
class Validation:
    """The figures of a checkpoint that was validated while its stage trained on.

    Attributes:
        step: steps that the checkpoint was made after.
        checkpoint: its name.
        figures: see `StepFigures.validation`; empty if only samples were drawn.
        seconds: how long it took, samples included.
    """

    step: int
    checkpoint: str
    figures: Mapping[str, float]
    seconds: float

    def to_json(self) -> dict[str, float | str]:
        """The line of the file."""
        own: dict[str, float | str] = {"step": self.step, "checkpoint": self.checkpoint, "seconds": self.seconds}
        return {**own, **self.scalars()}

    def scalars(self) -> dict[str, float]:
        """The figures by their names in the trackers."""
        return _prefixed("validation", self.figures)


def read_validations(stage: Path) -> list[Validation]:
    """Returns the lines of `VALIDATION_FILE` in their order; none if there is no such file."""
    return [
        Validation(int(line["step"]), line["checkpoint"], _of_prefix("validation", line), line["seconds"])
        for line in _lines(stage / VALIDATION_FILE)
        if {"checkpoint", "seconds"} <= line.keys()
    ]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects with a step in a file of JSON lines."""
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if isinstance(values := _parsed(line), dict) and "step" in values:
                yield values


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _prefixed(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in figures.items()}


def _of_prefix(prefix: str, line: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(f"{prefix}/"): value for name, value in line.items() if name.startswith(f"{prefix}/")}
