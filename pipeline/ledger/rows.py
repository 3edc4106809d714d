"""Stores ledger rows: a JSON-lines file per attempt in a folder, or an object per row in a bucket, which cannot append.

Rows are cumulative, so the last row of an attempt covers all of it. Written rows never change.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from pipeline.config.units import SECONDS_PER_DAY
from pipeline.errors import InputError
from tokenization.files.storage import open_storage

SUFFIX = ".jsonl"
READS_AT_ONCE = 16
OPTIONAL = {
    "number": 0,
    "budget_gpu_days": 0.0,
    "run_budget_gpu_days": 0.0,
    "data_wait_seconds": 0.0,
    "checkpoint_seconds": 0.0,
    "starting_seconds": 0.0,
    "first_step": None,
    "step": None,
    "marks": (),
    "kinds": None,
    "update_seconds": 0.0,
}
"""Columns that ledgers of earlier versions lack, and their default values."""


class RowWriter:
    """Appends the rows of one attempt.

    Args:
        location: folder or prefix of a bucket of the ledger.
        attempt: name of the attempt.
    """

    def __init__(self, location: str, attempt: str) -> None:
        self._attempt = attempt
        self._storage = open_storage(location) if "://" in location else None
        self._path = Path(location) / f"{attempt}{SUFFIX}"
        self.last: dict[str, Any] | None = None
        self._count, self._whole_bytes = 0, 0
        if self._storage:
            names = [name for name in self._storage.names() if name.startswith(f"{attempt}/")]
            self._count = len(names)
            if names:
                self.last = json.loads(self._storage.text(names[-1]) or "")
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                found = rows_of(self._path.read_bytes(), str(self._path))
                self.last, self._whole_bytes = (found.rows[-1] if found.rows else None), found.whole_bytes

    def write(self, row: dict[str, Any]) -> None:
        """Appends one row. On a local disk it is synced when this returns.

        Raises:
            OSError: for example a full disk. A half-written row is removed, so that the next one can follow.
            InputError, OutageError: the service refuses the row, or does not answer.
        """
        line = json.dumps(row) + "\n"
        if self._storage:
            self._storage.write(_segment(self._attempt, self._count), lambda path: path.write_text(line))
            self._count += 1
            return
        with self._path.open("ab") as file:
            # If a killed keeper left a torn line, a row appended to it would be lost as well.
            file.truncate(self._whole_bytes)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._whole_bytes += len(line.encode())


def _segment(attempt: str, number: int) -> str:
    return f"{attempt}/{number:08d}{SUFFIX}"


@dataclass(frozen=True)
class Rows:
    """The rows of one file, the number of bytes that hold them, and any damage at the end of the file."""

    rows: list[dict[str, Any]]
    whole_bytes: int
    torn: str


def rows_of(content: bytes, location: str) -> Rows:
    """Reads the rows of a file. The last line may be torn, if its writer was killed.

    Raises:
        InputError: a line other than the last is not a row.
    """
    rows, whole, torn = [], 0, ""
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not line.endswith(b"\n") or not isinstance(row, dict) or "attempt" not in row:
                raise ValueError("no row")
        except ValueError as error:
            if number < len(lines) or line.endswith(b"\n"):
                raise InputError(
                    f"ledger file {location!r}: line {number} is no row of a ledger: {line[:60]!r}; rows are only ever "
                    "added, so somebody has changed it: put it back as it was, or move it out of the ledger"
                ) from error
            torn = (
                f"ledger file {location!r} ends in a torn line of {len(line)} bytes: its writer was killed, or still "
                "writes. The row before it counts; there is nothing to do"
            )
            break
        rows.append(row)
        whole += len(line)
    return Rows(rows, whole, torn)


def last_rows(location: str | Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Reads the last row of each attempt, in order of attempts, with `gpu_days` (devices times seconds over 86,400).
    The ledger may grow in the meantime.

    Returns:
        The rows, and a remark for each torn line.

    Raises:
        InputError: the ledger contains a file that is not part of a ledger, or the service refuses access.
        OutageError: the service does not answer.
    """
    found, remarks = _stored_rows(str(location))
    for row in found:
        for name, usual in OPTIONAL.items():
            row.setdefault(name, usual)
        row.setdefault("started", row["time"] - row["seconds"])
        row.setdefault("device", "CPU" if row["gpu_model"] == "CPU" else "GPU")
        row.setdefault("elapsed_seconds", row["seconds"])
        # Older rows have no measured devices.
        row.setdefault("held", 0.0)
        row.setdefault("device_seconds", row["gpu_count"] * row["seconds"])
        row["gpu_days"] = row["gpu_count"] * row["seconds"] / SECONDS_PER_DAY
    return sorted(found, key=_order), remarks


def _order(row: dict[str, Any]) -> tuple[float, float]:
    return row["number"], row["started"]


def days_of(rows: Iterable[dict[str, Any]], job: str, stage: str, device: str) -> tuple[float, float]:
    """Returns the `GPU` or `CPU` days of some attempts' last rows: those of a job's stage, and those of all."""
    of_kind = [row for row in rows if row["device"] == device]
    of_stage = [row for row in of_kind if (row["job"], row["stage"]) == (job, stage)]
    return sum(float(row["gpu_days"]) for row in of_stage), sum(float(row["gpu_days"]) for row in of_kind)


def _stored_rows(location: str) -> tuple[list[dict[str, Any]], list[str]]:
    if "://" not in location:
        files = [rows_of(path.read_bytes(), str(path)) for path in sorted(Path(location).glob(f"*{SUFFIX}"))]
        return [file.rows[-1] for file in files if file.rows], [file.torn for file in files if file.torn]
    storage = open_storage(location)
    newest: dict[str, str] = {}
    for name in storage.names():  # sorted
        attempt, slash, _ = name.rpartition("/")
        if slash and name.endswith(SUFFIX):
            newest[attempt] = name
    with ThreadPool(READS_AT_ONCE) as pool:  # Ctrl-C does not wait for its threads, which may wait for a service
        texts = pool.map(storage.text, newest.values())
    rows = []
    for name, text in zip(newest.values(), texts, strict=True):
        rows += rows_of((text or "").encode(), f"{location}/{name}").rows
    return rows, []
