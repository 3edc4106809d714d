"""Splits the device-days of a run by attempt and by use, from its ledger."""

import time
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.config.gpus import A100, GPU_TYPES, peak_flop_per_s
from pipeline.config.units import SECONDS_PER_DAY
from pipeline.errors import UsageError
from pipeline.ledger.table import records_of

CATEGORIES = ("productive", "lost to failures", "waiting for data", "checkpointing", "starting", "idle")
SILENT_HEARTBEATS = 3
"""Heartbeats without a row after which an attempt that has not ended counts as killed."""
GROUPS = ("job", "stage", "attempt", "gpu_model")


def spending(table: pd.DataFrame, heartbeat_s: float, now: float | None = None) -> pd.DataFrame:
    """Returns one row for each attempt: its keys (`GROUPS`), its outcome, `gpu_days`, and those days by `CATEGORIES`.

    Lost to failures are the steps that a later attempt repeated, the device time outside of steps of an attempt that
    failed or was killed, and all the time of such an attempt if it did no step. Idle is held time that belongs to no
    other category, mostly the end of a job.

    Args:
        table: table of `read_ledger`.
        heartbeat_s: seconds between two rows.
        now: time of day, s since 1970.
    """
    now = time.time() if now is None else now
    found = []
    for row in records_of(table):
        outcome = outcome_of(row, heartbeat_s, now)
        later = table[(table["job"] == row["job"]) & (table["stage"] == row["stage"])]
        later = later[later["number"] > row["number"]]["first_step"].dropna()
        seconds = _categories(row, outcome, float(later.min()) if len(later) else None)
        days = {name: row["gpu_count"] * value / SECONDS_PER_DAY for name, value in seconds.items()}
        found.append({name: row[name] for name in GROUPS} | {"outcome": outcome, "gpu_days": row["gpu_days"], **days})
    return pd.DataFrame(found, columns=[*GROUPS, "outcome", "gpu_days", *CATEGORIES])


def outcome_of(row: dict[str, Any], heartbeat_s: float, now: float) -> str:
    """Returns how an attempt ended: `running` if it has not ended, `killed` if its rows stopped."""
    if row["event"].startswith("end: "):
        return str(row["event"].removeprefix("end: "))
    return "running" if now - row["time"] < SILENT_HEARTBEATS * heartbeat_s else "killed"


def _categories(row: dict[str, Any], outcome: str, done_again_from: float | None) -> dict[str, float]:
    """Returns the seconds of an attempt by category. `done_again_from` is the step a later attempt resumed from."""
    failed = outcome in ("failed", "killed")
    productive, waiting = row["productive_seconds"], row["data_wait_seconds"]
    checkpoints, starting = row["checkpoint_seconds"], row["starting_seconds"]
    starting = min(starting, max(0.0, row["seconds"] - productive - waiting - checkpoints))
    rest = max(0.0, row["seconds"] - productive - waiting - checkpoints - starting)
    worked = row["step"] is not None and row["step"] == row["step"]  # not NaN
    lost = 0.0
    if failed and not worked and not productive:
        return dict.fromkeys(CATEGORIES, 0.0) | {"lost to failures": row["seconds"]}
    if worked and done_again_from is not None and done_again_from < row["step"]:
        kept = _productive_until(row, done_again_from)
        lost, productive = productive - kept, kept
    if failed:
        lost, rest = lost + rest, 0.0
    values = (productive, lost, waiting, checkpoints, starting, rest)
    return dict(zip(CATEGORIES, values, strict=True))


def _productive_until(row: dict[str, Any], step: float) -> float:
    """Returns the productive seconds before a step.

    They are measured at steps with a checkpoint, where attempts resume. Other steps are interpolated.
    """
    points = [[row["first_step"], 0.0], *row["marks"], [row["step"], row["productive_seconds"]]]
    before = max((point for point in points if point[0] <= step), default=points[0], key=lambda point: point[0])
    after = min((point for point in points if point[0] > step), default=points[-1], key=lambda point: point[0])
    if step <= before[0] or after[0] == before[0]:
        return float(before[1]) if step >= before[0] else 0.0
    return float(before[1] + (after[1] - before[1]) * (step - before[0]) / (after[0] - before[0]))


def a100_factor(model: str, named: Mapping[str, str]) -> float | None:
    """Returns A100 days per day of this GPU, the ratio of their dense bf16 peaks; None for CPUs.

    Args:
        model: device model in the ledger.
        named: the user's mapping of unknown device models to GPUs.

    Raises:
        UsageError: the device model cannot be mapped to a GPU.
    """
    if model == "CPU":
        return None
    peak = peak_flop_per_s(named.get(model, model))
    if peak is None or ("+" in model and model not in named):
        known = ", ".join(gpu.name for gpu in GPU_TYPES if gpu.peak_flop_per_s)
        raise UsageError(
            f"GPU model {named.get(model, model)!r} in the ledger has no known peak, so no A100-equivalent; say what "
            f"it counts as with --gpu-model '{model}=A100', one of {known}"
        )
    return peak / A100.peak_flop_per_s


def burn_rate(table: pd.DataFrame, spent: pd.DataFrame) -> float:
    """Returns the number of devices that running attempts hold now, which equals device-days a day."""
    return float(table.loc[(spent["outcome"] == "running").to_numpy(), "held"].sum()) if len(table) else 0.0
