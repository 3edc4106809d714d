"""Appends what a part measures to a JSON-lines file, line by line, so that a part that is killed leaves its figures."""

import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Recorder:
    """Writes the lines of one part.

    Attributes:
        path: the file.
        run: the run of the benchmark, since a file can have several.
        part: the part's name.
    """

    path: Path
    run: str
    part: str

    def figures(self, **values: Any) -> None:
        """Records figures by name; a later value of a name replaces an earlier one."""
        self._append({"figures": values})

    def error(self, message: str) -> None:
        """Records why the part, or a piece of it, has no figure."""
        self._append({"error": " ".join(message.split())})

    @contextmanager
    def piece(self, name: str) -> Iterator[None]:
        """Records an error of the code inside, and lets the part go on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.error(f"{name}: {type(error).__name__}: {error}")

    def ended(self, seconds: float) -> None:
        """Records how long the part took, with its process's start."""
        self._append({"seconds": seconds})

    def _append(self, values: dict[str, Any]) -> None:
        line = json.dumps({"run": self.run, "part": self.part} | values) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)


def results_of(path: Path, run: str) -> dict[str, dict[str, Any]]:
    """Reads back a run: for each part, in the order of its first line, its `figures`, `errors` and `seconds`."""
    parts: dict[str, dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        values = json.loads(line)
        if values["run"] != run:
            continue
        part = parts.setdefault(values["part"], {"figures": {}, "errors": [], "seconds": 0.0})
        part["figures"] |= values.get("figures", {})
        part["errors"] += [values["error"]] if "error" in values else []
        part["seconds"] = values.get("seconds", part["seconds"])
    return parts
