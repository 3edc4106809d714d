"""Reconstructs a ledger at an earlier time, which works because rows are only ever added."""

import json
from pathlib import Path

from pipeline.ledger.table import read_ledger


def ledger_after(share: float, ledger: Path, into: Path) -> Path:
    """Returns the ledger at the time when `share` of the training's total time had been held."""
    rows = [json.loads(line) for path in ledger.glob("*.jsonl") for line in path.read_text().splitlines()]
    whole = sum(row["device_seconds"] for row in rows if row["job"] == "train_stage" and row["event"].startswith("end"))
    held: dict[str, float] = {}
    into.mkdir()
    for row in sorted(rows, key=lambda row: row["time"]):
        if row["job"] == "train_stage":
            held[row["attempt"]] = row["device_seconds"]
        with (into / f"{row['attempt']}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        if sum(held.values()) >= share * whole:
            break
    assert len(read_ledger(into).table)
    return into
