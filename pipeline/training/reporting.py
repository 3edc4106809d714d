"""What the train loop tells whoever runs it, and asks of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.step_figures import StepFigures
from pipeline.training.stop_request import StopRequest


class StageReporter(Protocol):
    """One rank's connection to whoever runs the stage. No call waits for an answer."""

    def post(self, figures: StepFigures) -> None:
        """Takes the figures of a step. Called on rank 0 alone."""
        ...

    def log(self, line: str) -> None:
        """Takes a line for whoever runs the job. Called on every rank; only rank 0's line is to be shown."""
        ...

    def heartbeat(self) -> None:
        """Called on every rank whenever work was done, at least once a step."""
        ...

    def stop_requested(self) -> StopRequest | None:
        """Whether the stage is to end early. Called on rank 0 alone, after every step."""
        ...


@dataclass(frozen=True)
class RecordingReporter:
    """Keeps the figures in this process; nobody watches it and nobody asks it to stop.

    Attributes:
        write_line: gets rank 0's lines, and those of other ranks too.
        figures: of the steps so far.
    """

    write_line: Callable[[str], object]
    figures: list[StepFigures] = field(default_factory=list)

    def post(self, figures: StepFigures) -> None:
        """Keeps them."""
        self.figures.append(figures)

    def log(self, line: str) -> None:
        """Writes the line."""
        self.write_line(line)

    def heartbeat(self) -> None:
        """Does nothing."""

    def stop_requested(self) -> StopRequest | None:
        """Never."""
        return None
