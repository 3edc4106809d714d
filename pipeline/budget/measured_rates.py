"""Measured rates of a device, from the output of `jobs/benchmark.py` or from the ledger of another run."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.gpus import peak_flop_per_s
from pipeline.errors import UsageError
from pipeline.ledger.table import read_ledger


@dataclass(frozen=True)
class MeasuredRates:
    """MeasuredRates of one device. None or empty means not measured.

    Attributes:
        device: device model.
        flop_per_s: FLOP/s of a training step.
        flop_per_s_by_stage: the same by stage, if stages were measured separately.
        pictures_per_s: pictures tokenized a second.
        starting_s: seconds from getting a stage's devices to its first step.
        checkpoint_share, waiting_share, idle_share: additional time, as shares of the seconds of steps.
        sources: files the rates come from.
    """

    device: str = ""
    flop_per_s: float | None = None
    flop_per_s_by_stage: dict[int, float] = field(default_factory=dict)
    pictures_per_s: float | None = None
    starting_s: float | None = None
    checkpoint_share: float | None = None
    waiting_share: float = 0.0
    idle_share: float = 0.0
    sources: tuple[str, ...] = ()


def read_rates(locations: tuple[str, ...]) -> MeasuredRates:
    """Reads rates from the output of `jobs/benchmark.py train --json` or `tokenize --json`, and from ledgers' folders.

    Raises:
        UsageError: a file is neither, or the rates are of different devices.
    """
    rates = MeasuredRates()
    for location in locations:
        path = Path(location)
        if "://" in location or path.is_dir():
            found = _of_ledger(location)
        elif path.is_file():
            found = _of_benchmark(location, path.read_text())
        else:
            raise UsageError(f"--benchmark {location!r}: there is no such file or ledger folder")
        if rates.device and found.device != rates.device:
            raise UsageError(
                f"--benchmark: {location!r} was measured on {found.device}, {rates.sources[0]!r} on {rates.device}; "
                "measure both on one"
            )
        news = {name: value for name, value in vars(found).items() if value}
        rates = MeasuredRates(**(vars(rates) | news | {"sources": (*rates.sources, location)}))
    return rates


def _of_benchmark(location: str, text: str) -> MeasuredRates:
    try:
        figures: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise UsageError(
            f"--benchmark {location!r}: its last line is no JSON object; give what `jobs/benchmark.py "
            "train --json` prints"
        ) from error
    device = str(figures.get("device", ""))
    name, _, rest = device.partition(", ")
    devices = int(rest.split()[0]) if name == "CPU" and rest[:1].isdigit() else 1
    if "flop_per_step" in figures:
        return MeasuredRates(device=name, flop_per_s=figures["flop_per_step"] / figures["step_s"] / devices)
    if "images_per_s" in figures:
        encoders = devices if name == "CPU" else int(figures.get("encoders", 1))
        return MeasuredRates(device=name, pictures_per_s=figures["images_per_s"] / encoders)
    raise UsageError(
        f"--benchmark {location!r}: neither flop_per_step nor images_per_s is in it; give what `jobs/benchmark.py "
        "train --json` or `tokenize --json` prints, or a run's ledger folder"
    )


def _of_ledger(location: str) -> MeasuredRates:
    table = read_ledger(location).table
    if not len(table):
        raise UsageError(f"--benchmark {location!r}: the folder holds no rows of a ledger")
    trained = table[(table["job"] == "train_stage") & (table["steps"] > 0)]
    if not len(trained):
        raise UsageError(f"--benchmark {location!r}: no attempt in this ledger trained a step")
    models = sorted(set(trained["gpu_model"]))
    if len(models) > 1:
        raise UsageError(f"--benchmark {location!r}: it was trained on {', '.join(models)}; give a ledger of one model")
    work = trained["productive_seconds"] * trained["gpu_count"]
    by_stage = {
        int(str(stage)): float(rows["flop"].sum() / work[rows.index].sum()) for stage, rows in trained.groupby("stage")
    }
    tokenized = table[(table["job"] == "tokenize") & (table["samples"] > 0)]
    productive, seconds = trained["productive_seconds"].sum(), trained["seconds"].sum()
    parts = {name: float(trained[f"{name}_seconds"].sum()) for name in ("checkpoint", "data_wait", "starting")}
    return MeasuredRates(
        device=models[0],
        flop_per_s=float(trained["flop"].sum() / work.sum()),
        flop_per_s_by_stage=by_stage,
        pictures_per_s=float(tokenized["samples"].sum() / tokenized["device_seconds"].sum())
        if len(tokenized)
        else None,
        starting_s=float(trained["starting_seconds"].mean()),
        checkpoint_share=parts["checkpoint"] / productive,
        waiting_share=parts["data_wait"] / productive,
        idle_share=max(0.0, float(seconds - productive) - sum(parts.values())) / productive,
    )


def mfu_of(rates: MeasuredRates, device: str) -> float | None:
    """Returns the measured rate as a share of the device's peak, or None if either is unknown."""
    peak = peak_flop_per_s(device)
    return rates.flop_per_s / peak if peak and rates.flop_per_s else None
