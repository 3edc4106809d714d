"""The interface through which the training loop reports, and is asked to stop."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.step_figures import StepFigures
from pipeline.training.stop_request import StopRequest


class StageReporter(Protocol):
    """One rank's connection to the process that runs the stage. No call waits for an answer."""

    def post(self, figures: StepFigures) -> None:
        """Takes the figures of a step. Called on rank 0 alone."""
        ...

    def log(self, line: str) -> None:
        """Takes a line for whoever runs the job. Called on every rank; only rank 0's line is to be shown."""
        ...

    def heartbeat(self) -> None:
        """Resets watchdogs. Every rank calls it after each piece of work, at least once a step."""
        ...

    def stop_requested(self) -> StopRequest | None:
        """Returns a request to end the stage early, if there is one. Called on rank 0 alone, after every step."""
        ...


@dataclass(frozen=True)
class RecordingReporter:
    """Keeps the figures in this process, has no watchdog, and never asks for a stop.

    Attributes:
        write_line: called with the lines of all ranks.
        figures: figures of all steps so far.
    """

    write_line: Callable[[str], object]
    figures: list[StepFigures] = field(default_factory=list)

    def post(self, figures: StepFigures) -> None:
        self.figures.append(figures)

    def log(self, line: str) -> None:
        self.write_line(line)

    def heartbeat(self) -> None:
        """Does nothing."""

    def stop_requested(self) -> StopRequest | None:
        return None
