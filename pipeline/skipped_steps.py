"""Writes down what a stage did not learn from: steps that were skipped, and those that a roll back undid."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

SKIPPED_FILE = "skipped.jsonl"


class SkippedSteps:
    """Keeps the ids of the samples of the steps since the last checkpoints, and writes those that were lost.

    Args:
        folder: the stage's.
        start_step: steps done before this attempt.
        tell: gets a line where the file cannot be written.
    """

    def __init__(self, folder: Path, start_step: int, tell: Callable[[str], None]) -> None:
        self._folder, self._start, self._tell = folder, start_step, tell
        self._ids: dict[int, bytes] = {}  # packed: a step of thousands of samples takes tens of kilobytes
        self._written: set[int] = set()
        self._saved_at = start_step

    def note(self, step: int, sample_ids: list[str]) -> None:
        """Remembers the samples of a step, from 1."""
        self._ids[step] = zlib.compress(json.dumps(sample_ids).encode(), level=1)

    def saved(self, step: int) -> None:
        """A checkpoint after `step` was begun: what lies before the one before it cannot be lost any more."""
        for number in [each for each in self._ids if each <= self._saved_at]:
            del self._ids[number]
        self._saved_at = step

    def write(self, step: int, problem: str, kept_step: int) -> None:
        """Appends a line for each step after `kept_step` up to `step` that has none yet; `step` is the one that has the
        problem."""
        lines = []
        if kept_step < self._start:  # an attempt before ran these
            lines.append({"first_step": kept_step + 1, "step": self._start, "problem": _undone_by(step)})
        for number in sorted(self._ids):
            if kept_step < number <= step and number not in self._written:
                why = problem if number == step else _undone_by(step)
                lines.append(
                    {"step": number, "problem": why, "sample_ids": json.loads(zlib.decompress(self._ids[number]))}
                )
                self._written.add(number)
        try:
            with (self._folder / SKIPPED_FILE).open("a") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        except OSError as error:
            self._tell(f"{SKIPPED_FILE} could not be written ({error}); lost are the steps {kept_step + 1} to {step}")


def _undone_by(step: int) -> str:
    return f"what was learned from it is undone: after step {step} the weights went back"
