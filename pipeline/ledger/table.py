"""A ledger as a table, and what is unusual in it."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.ledger.rows import last_rows

CLOCK_TOLERANCE_S = 5.0
"""Seconds that the wall clock may drift from the monotonic one in an attempt before it counts as a jump."""


@dataclass(frozen=True)
class Ledger:
    """The contents of a ledger.

    Attributes:
        table: the last row of each attempt in order of attempts, with `gpu_days` (devices times seconds over 86,400).
        remarks: anomalies, what they mean, and what to do.
    """

    table: pd.DataFrame
    remarks: tuple[str, ...]


def read_ledger(location: str | Path) -> Ledger:
    """Reads a ledger, which may grow in the meantime. Raises as `last_rows`."""
    rows, remarks = last_rows(location)
    table = pd.DataFrame(rows)
    if rows:
        remarks += [*_jumped_clocks(table), *_overlaps(table)]
    return Ledger(table, tuple(remarks))


def records_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the records of a table as dicts by column."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _jumped_clocks(table: pd.DataFrame) -> list[str]:
    found = []
    for row in records_of(table):
        jump = row["time"] - row["started"] - row["elapsed_seconds"]
        if abs(jump) > CLOCK_TOLERANCE_S:
            found.append(
                f"the clock of the machine that kept {row['attempt']} jumped by {jump:+.0f} s meanwhile. Durations are "
                "measured with another clock and are right; times of day are not: set up NTP there"
            )
    return found


def _overlaps(table: pd.DataFrame) -> list[str]:
    """Returns the attempts of one stage that ran at the same time, which means that a run's name was used twice."""
    found = []
    trained = table[table["stage"] != ""]
    for (job, stage), attempts in trained.groupby(["job", "stage"], sort=False):
        rows = sorted(records_of(attempts), key=lambda row: row["started"])
        for earlier, later in pairwise(rows):
            shared = min(later["started"] + later["elapsed_seconds"], earlier["started"] + earlier["elapsed_seconds"])
            if (shared_s := shared - later["started"]) > CLOCK_TOLERANCE_S and earlier["device_seconds"]:
                found.append(
                    f"{earlier['attempt']} and {later['attempt']} of {job} {stage} ran at the same time for "
                    f"{shared_s:.0f} s: two runs of the name {later['run']!r}, or one that was started twice. Both "
                    "count; give one of them another recipe name or --root"
                )
    return found
