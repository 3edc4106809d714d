"""Writes down what a stage did not learn from: steps that were skipped, and those that a roll back undid."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

from tokenization.files.atomic_writing import append_whole

SKIPPED_FILE = "skipped.jsonl"


class SkippedSteps:
    """Keeps the ids of the samples of the steps since the last checkpoints, and writes those that were lost.

    Args:
        folder: the stage's.
        log: gets a line where the file cannot be written.
    """

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self._folder, self._log = folder, log
        self._ids: dict[int, bytes] = {}  # packed: a step of thousands of samples takes tens of kilobytes
        self._written: set[int] = set()
        self._pending = ""

    def note(self, step: int, sample_ids: list[str]) -> None:
        """Remembers the samples of a step, from 1."""
        self._ids[step] = zlib.compress(json.dumps(sample_ids).encode(), level=1)

    def forget(self, counted_step: int) -> None:
        """There is a checkpoint after so many steps that counts: what lies before it cannot be lost any more."""
        for number in [each for each in self._ids if each <= counted_step]:
            del self._ids[number]
        if self._pending:
            self._append()

    def write(self, step: int, problem: str, kept_step: int) -> None:
        """Appends a line for each step after `kept_step` up to `step` that has none yet; `step` is the one that has the
        problem. Of steps whose ids are not known any more there is one line, with the first and the last of them."""
        lost = [number for number in range(kept_step + 1, step + 1) if number not in self._written]
        lines: list[dict[str, object]] = []
        if unknown := [number for number in lost if number not in self._ids]:
            lines.append({"first_step": unknown[0], "step": unknown[-1], "problem": _undone_by(step)})
        for number in (each for each in lost if each in self._ids):
            sample_ids = json.loads(zlib.decompress(self._ids[number]))
            why = problem if number == step else _undone_by(step)
            lines.append({"step": number, "problem": why, "sample_ids": sample_ids})
        self._written.update(lost)
        self._pending += "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self._append()

    def _append(self) -> None:
        try:
            append_whole(self._folder / SKIPPED_FILE, self._pending)
            self._pending = ""
        except OSError as error:
            self._log(f"{SKIPPED_FILE} could not be written, and is tried again later: {error}")


def _undone_by(step: int) -> str:
    return f"what was learned from it is undone: after step {step} the weights went back"
