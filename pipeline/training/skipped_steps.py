"""Records the steps that a stage did not learn from: skipped ones, and those that a roll back undid."""

import json
from collections.abc import Callable
from pathlib import Path

from tokenization.files.atomic_writing import append_whole

SKIPPED_FILE = "skipped.jsonl"


ReadSampleIds = Callable[[list[int]], list[list[str]]]


class SkippedSteps:
    """Remembers the steps since the last checkpoints, and writes the sample ids of lost steps to a file.

    Args:
        folder: the stage's folder.
        log: called with a line if the file cannot be written.
        ids_of: reads the sample ids of some steps, which count from 1.
    """

    def __init__(
        self, folder: Path, log: Callable[[str], None], ids_of: Callable[[list[int]], list[list[str]]]
    ) -> None:
        self._folder, self._log, self._ids_of = folder, log, ids_of
        self._known: set[int] = set()
        self._written: set[int] = set()
        self._pending = ""

    def note(self, step: int) -> None:
        """Remembers a step; steps count from 1."""
        self._known.add(step)

    def forget(self, counted_step: int) -> None:
        """Forgets steps before a complete checkpoint: those steps cannot be lost any more."""
        self._known = {each for each in self._known if each > counted_step}
        if self._pending:
            self._append()

    def write(self, step: int, problem: str, kept_step: int) -> None:
        """Appends a line for each unwritten step after `kept_step` up to `step`, which is the step with the problem.

        Forgotten steps share one line with the first and the last of them.
        """
        lost = [number for number in range(kept_step + 1, step + 1) if number not in self._written]
        lines: list[dict[str, object]] = []
        if unknown := [number for number in lost if number not in self._known]:
            lines.append({"first_step": unknown[0], "step": unknown[-1], "problem": _undone_by(step)})
        known = [number for number in lost if number in self._known]
        for number, sample_ids in zip(known, self._ids_of(known), strict=True):
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
