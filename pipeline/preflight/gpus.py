"""The state of a node's GPUs, as nvidia-smi tells it. Written after NVIDIA's documentation; it has not run on a GPU."""

import csv
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.preflight.finding import Finding, Verdict, failed, with_unit

SUBJECT = "devices"
ASK_LIMIT_S = 60
CANNOT_ASK = (OSError, RuntimeError, ValueError, KeyError, subprocess.SubprocessError)
"""What is raised where nvidia-smi does not answer, or answers something else than expected."""
STATE = ("index", "uuid", "name", "driver_version", "memory.total", "memory.used", "temperature.gpu")
CLOCKS = ("uuid", "clocks_throttle_reasons.active")
ERRORS = ("uuid", "ecc.errors.uncorrected.volatile.total")
PAGES = ("uuid", "retired_pages.pending")
ROWS = ("gpu_uuid", "remapped_rows.uncorrectable", "remapped_rows.pending", "remapped_rows.failure")
MIB = 2**20
SLOWED_BY = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of the reasons for lower clocks that mean a fault (nvml.h, nvmlClocksEventReasons). Others, as idleness and the
power cap, are usual."""
USUAL_USE_BYTES = 1_000_000_000
"""A GPU on which nothing runs has less in use: the driver's own."""

Ask = Callable[[str, Sequence[str]], list[list[str]]]
"""Asks nvidia-smi with a flag (as `--query-gpu`) for fields. Returns the rows; none if it does not know a field."""


@dataclass(frozen=True)
class Gpu:
    """One GPU of a node. None where the driver does not tell.

    Attributes:
        index, uuid, name, driver: as the driver tells them.
        total_bytes, used_bytes: its memory, and the part in use.
        temperature_c: in degrees Celsius.
        slowed_by: faults that lower its clocks now (`SLOWED_BY`).
        uncorrected_errors: uncorrected memory errors since the driver was loaded.
        remap_failed: True if a damaged row of memory could not be replaced.
        reset_pending: True if damaged memory is replaced at the next reset only.
        remapped_rows: rows that were replaced because of uncorrectable errors.
    """

    index: int
    uuid: str
    name: str
    driver: str
    total_bytes: int
    used_bytes: int
    temperature_c: int | None = None
    slowed_by: tuple[str, ...] = ()
    uncorrected_errors: int | None = None
    remap_failed: bool = False
    reset_pending: bool = False
    remapped_rows: int | None = None


def gpus_here() -> list[Gpu]:
    """Returns the GPUs of this node; none where there is no nvidia-smi.

    Raises:
        RuntimeError: the driver does not answer.
    """
    return read_gpus(_ask) if shutil.which("nvidia-smi") else []


def read_gpus(ask: Ask) -> list[Gpu]:
    """Returns the GPUs that `ask` reports. Groups of fields are asked for one by one: nvidia-smi refuses a query with
    one field that its version does not know.

    Raises:
        RuntimeError: the answer is no table of GPUs.
    """
    gpus: dict[str, Gpu] = {}
    for row in ask("--query-gpu", STATE):
        if len(row) != len(STATE) or (index := _number(row[0])) is None:
            raise RuntimeError(f"nvidia-smi answers {', '.join(row)!r}; is the driver loaded?")
        total, used = (_number(cell) or 0 for cell in row[4:6])
        gpus[row[1]] = Gpu(index, row[1], row[2], row[3], total * MIB, used * MIB, _number(row[6]))
    for uuid, reasons in ask("--query-gpu", CLOCKS):
        bits = int(reasons, 16) if reasons.startswith("0x") else 0
        gpus[uuid] = replace(gpus[uuid], slowed_by=tuple(name for bit, name in SLOWED_BY.items() if bits & bit))
    for uuid, errors in ask("--query-gpu", ERRORS):
        gpus[uuid] = replace(gpus[uuid], uncorrected_errors=_number(errors))
    for uuid, pending in ask("--query-gpu", PAGES):
        gpus[uuid] = replace(gpus[uuid], reset_pending=_yes(pending))
    for uuid, remapped, pending, failure in ask("--query-remapped-rows", ROWS):
        gpu = gpus[uuid]
        gpus[uuid] = replace(
            gpu,
            remapped_rows=_number(remapped),
            reset_pending=gpu.reset_pending or _yes(pending),
            remap_failed=_yes(failure),
        )
    return sorted(gpus.values(), key=lambda gpu: gpu.index)


def judge_gpus(node: str, gpus: Sequence[Gpu], expected: float, planned_bytes: int, planned_on: str) -> list[Finding]:
    """Judges a node's GPUs.

    Args:
        node: the node.
        gpus: its GPUs.
        expected: the number that Ray has there.
        planned_bytes: the plan's bytes of a rank at its fullest moment.
        planned_on: the GPU type of the plan, as in `A100-80GB`.
    """
    if len(gpus) < expected:
        remedy = "look at nvidia-smi and dmesg there; leave the node out until all its GPUs are back"
        found = [failed(SUBJECT, "GPUs", f"{len(gpus)} GPUs answer, Ray has {expected:g}", remedy, node)]
    else:
        found = []
    for gpu in gpus:
        found += [*_health(node, gpu), _memory(node, gpu, planned_bytes)]
    names = sorted({gpu.name for gpu in gpus})
    if gpus and any(not set(planned_on.replace("-", " ").split()) <= set(_words(name)) for name in names):
        what, remedy = "GPU type", "plan on it: --set plan.gpu=NAME; its memory and speed are others"
        found.append(Finding(SUBJECT, what, Verdict.WARNING, ", ".join(names), planned_on, node, remedy))
    return found


def _health(node: str, gpu: Gpu) -> list[Finding]:
    label, found = f"health of GPU {gpu.index}", []
    faults = {
        "damaged memory could not be replaced": gpu.remap_failed,
        f"{gpu.uncorrected_errors} uncorrected memory errors": bool(gpu.uncorrected_errors),
    }
    slow = {
        f"slowed by {', '.join(gpu.slowed_by)}": bool(gpu.slowed_by),
        "damaged memory is replaced at the next reset only": gpu.reset_pending,
    }
    for verdict, cases, remedy in (
        (Verdict.FAILED, faults, "leave the node out, and have the GPU exchanged"),
        (Verdict.WARNING, slow, "reset the GPU or reboot the node; look at its cooling and power"),
    ):
        if said := [text for text, is_so in cases.items() if is_so]:
            found.append(Finding(SUBJECT, label, verdict, "; ".join(said), "no fault", node, remedy))
    figures = {"temperature_c": gpu.temperature_c, "remapped_rows": gpu.remapped_rows}
    return found or [Finding(SUBJECT, label, Verdict.OK, f"{gpu.name}, no fault", node=node, figures=figures)]


def _memory(node: str, gpu: Gpu, planned_bytes: int) -> Finding:
    free = gpu.total_bytes - gpu.used_bytes
    in_use = gpu.used_bytes > USUAL_USE_BYTES
    verdict = Verdict.FAILED if free < planned_bytes else Verdict.WARNING if in_use else Verdict.OK
    remedy = "end what runs there (nvidia-smi names it)" if in_use else "lower micro_batch_size, or see the dry run"
    return Finding(
        SUBJECT,
        f"free memory of GPU {gpu.index}",
        verdict,
        f"{with_unit(free, 'B')} of {with_unit(gpu.total_bytes, 'B')}",
        f"{with_unit(planned_bytes, 'B')} at the plan's fullest moment",
        node,
        remedy if verdict else "",
        {"free_bytes": free, "total_bytes": gpu.total_bytes, "planned_bytes": planned_bytes},
    )


def _ask(flag: str, fields: Sequence[str]) -> list[list[str]]:
    words = ["nvidia-smi", f"{flag}={','.join(fields)}", "--format=csv,noheader,nounits"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=ASK_LIMIT_S, check=False)
    if said.returncode:
        if fields is STATE:
            raise RuntimeError(f"nvidia-smi fails: {' '.join((said.stdout + said.stderr).split())}")
        return []  # an older or newer driver, without one of the fields
    return [[cell.strip() for cell in row] for row in csv.reader(said.stdout.splitlines()) if row]


def _number(cell: str) -> int | None:
    """A cell's number; None for `[N/A]` and the like."""
    return int(cell) if cell.isdigit() else None


def _yes(cell: str) -> bool:
    return cell.lower() in ("yes", "1")


def _words(name: str) -> list[str]:
    return name.replace("-", " ").split()
