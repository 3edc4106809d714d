"""Sums what one attempt of a job has held and done so far: the arithmetic of its ledger rows, without Ray."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.step_figures import StepFigures

COUNTERS = (
    *("productive_seconds", "data_wait_seconds", "checkpoint_seconds", "starting_seconds"),
    *("steps", "samples", "tokens", "flop", "update_seconds"),
)
KEPT_MARKS = 64
"""Number of checkpoints for which a row keeps the amount of work before them."""
FREED_WITHIN_S = 0.5
"""Ray releases the devices of a job 0.1 to 0.3 s after its end."""
BOOT_ID = "/proc/sys/kernel/random/boot_id"
"""Linux's boot id: readings of a monotonic clock are comparable only within one boot."""


@dataclass(frozen=True)
class DayLimits:
    """Device-days that the stage and the run may use over all attempts; 0 for no limit."""

    stage_gpu_days: float = 0.0
    run_gpu_days: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """The identity and the limits of an attempt.

    Attributes:
        attempt: unique name.
        number: number in the ledger, from 1.
        run, job, stage: names; `stage` is empty for jobs without stages.
        device: `GPU`, or `CPU` for a job that holds none.
        budget_gpu_days, run_budget_gpu_days: limits it was started with; see `DayLimits`.
    """

    attempt: str
    number: int
    run: str
    job: str
    stage: str
    device: str
    budget_gpu_days: float = 0.0
    run_budget_gpu_days: float = 0.0


@dataclass(frozen=True)
class DevicesNow:
    """The devices that a job holds now.

    Attributes:
        devices: number of devices.
        model: device model; empty while the job holds none.
        job_ended_ago_s: seconds since the job ended, or None while it runs.
    """

    devices: float
    model: str
    job_ended_ago_s: float | None = None


@dataclass(frozen=True)
class Moment:
    """A reading of a machine's monotonic clock.

    Attributes:
        monotonic_s: seconds since an arbitrary time.
        boot: the machine's boot id; only readings with the same id are comparable. Empty if unknown.
    """

    monotonic_s: float
    boot: str

    @classmethod
    def now(cls) -> "Moment":
        return cls(time.monotonic(), boot_id())


@dataclass(frozen=True)
class Counts:
    """Counters of a job's work."""

    steps: float = 0
    samples: float = 0


class Account:
    """Adds up an attempt. Durations use the monotonic clock, so a jump of the wall clock does not change them.

    Args:
        attempt: the attempt.
        last_row: last row of an earlier keeper that was killed; counting resumes from it.
        monotonic, wall: clocks, seconds.
    """

    def __init__(
        self,
        attempt: Attempt,
        last_row: dict[str, Any] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.attempt, self._monotonic, self._wall = attempt, monotonic, wall
        self._boot = boot_id()
        now, last = monotonic(), last_row or {}
        # Same machine, same boot: the monotonic clock also covers the gap.
        same_clock = last.get("boot") == self._boot and last.get("monotonic", now) <= now
        self._began = last["monotonic"] - last["elapsed_seconds"] if last and same_clock else now
        self._elapsed_before = 0.0 if same_clock or not last else last["elapsed_seconds"]
        self._looked = last["monotonic"] if last and same_clock else now
        self._started = last.get("started", wall())
        self._freed: tuple[float, float, float] | None = None  # from when, until when, how many devices
        self._held, self._models = float(last.get("held", 0.0)), set(filter(None, last.get("gpu_model", "").split("+")))
        self._device_seconds = float(last.get("device_seconds", 0.0))
        self._max_devices = float(last.get("gpu_count", 0.0))
        self._counters: dict[str, float] = {name: float(last.get(name, 0.0)) for name in COUNTERS}
        self._first_step: int | None = last.get("first_step")
        self._step: int | None = last.get("step")
        self._kinds: dict[str, list[float]] = {kind: list(sums) for kind, sums in last.get("kinds", {}).items()}
        self._marks: list[list[float]] = list(last.get("marks", ()))
        self._works_since: float | None = last.get("works_since")

    @property
    def device_seconds(self) -> float:
        """Device-seconds held so far."""
        return self._device_seconds

    @property
    def seconds(self) -> float:
        """Device-seconds divided by the largest number of devices held at once: the duration if it never changed."""
        return self._device_seconds / self._max_devices if self._max_devices else 0.0

    def record_devices(self, held: DevicesNow) -> None:
        """Records the devices that are held now.

        A change between two calls is assumed to have happened in the middle. The end of a killed job, whose keeper may
        have been killed as well, is the time at which Ray noticed it.
        """
        now = self._monotonic()
        between = (now - self._looked) / 2
        if held.job_ended_ago_s is not None and not held.devices:
            earliest = max(now - held.job_ended_ago_s, self._looked)
            latest = min(max(now - held.job_ended_ago_s + FREED_WITHIN_S, earliest), now)
            between = (earliest + latest) / 2 - self._looked
        if held.devices < self._held:
            self._freed = (self._looked, now, self._held - held.devices)
        self._device_seconds += self._held * between + held.devices * (now - self._looked - between)
        self._looked, self._held = now, held.devices
        self._max_devices = max(self._max_devices, held.devices)
        self._models |= set(filter(None, held.model.split("+")))

    def job_done(self, at: Moment) -> None:
        """Takes the end of the job's work as the time at which the last devices were released, if that is possible.

        It matters if the keeper was killed: the next one may start after the release, and the middle of the time
        between is then wrong by seconds. A job releases its devices as the last thing it does.
        """
        if self._freed is None or self._held or not at.boot or at.boot != self._boot:
            return
        since, until, devices = self._freed
        if since < at.monotonic_s < until:
            self._device_seconds += devices * (at.monotonic_s - (since + until) / 2)
        self._freed = None

    def add(self, **counts: float) -> None:
        """Adds to the counters by their names in `COUNTERS`."""
        for name, value in counts.items():
            self._counters[name] += value

    def working(self) -> None:
        """Marks held devices as productive from now on; before, the job was starting. For jobs without steps."""
        if self._works_since is None:
            self._works_since = self.seconds
            self._counters["starting_seconds"] = self.seconds

    def train_step(self, figures: StepFigures) -> None:
        stall_s = figures.checkpoint.seconds if figures.checkpoint else 0.0
        if self._first_step is None:
            self._first_step = figures.step - 1
            self._counters["starting_seconds"] = max(0.0, self.seconds - figures.step_s - figures.between_steps_s)
        if stall_s:  # stall of the checkpoint after the previous step
            self._marks = [*self._marks, [figures.step - 1, self._counters["productive_seconds"]]][-KEPT_MARKS:]
        self._step = figures.step
        self.add(
            productive_seconds=figures.step_s - figures.data_wait_s + figures.between_steps_s,
            data_wait_seconds=figures.data_wait_s,
            checkpoint_seconds=stall_s,
            steps=1,
            samples=figures.samples,
            tokens=figures.tokens,
            flop=figures.flop,
            update_seconds=figures.update_s,
        )
        if self._counters["steps"] == 1:
            return  # an attempt's first step compiles and traces, in the kind that comes first
        for kind, forward_s in figures.forward_s_by_kind.items():
            flop, seconds = self._kinds.get(kind, (0.0, 0.0))
            self._kinds[kind] = [flop + figures.flop_by_kind.get(kind, 0.0), seconds + forward_s]

    def row(self, event: str) -> dict[str, Any]:
        """Returns the ledger row of the attempt so far."""
        if self._works_since is not None:
            self._counters["productive_seconds"] = self.seconds - self._works_since
        now = self._monotonic()
        return {
            "event": event,
            **asdict(self.attempt),
            "gpu_model": "+".join(sorted(self._models)) or self.attempt.device.replace("GPU", ""),
            "gpu_count": self._max_devices,
            "seconds": self.seconds,
            **self._counters,
            "first_step": self._first_step,
            "step": self._step,
            "marks": self._marks,
            "kinds": self._kinds,
            "works_since": self._works_since,
            "device_seconds": self._device_seconds,
            "held": self._held,
            "started": self._started,
            "time": self._wall(),
            "elapsed_seconds": self._elapsed_before + now - self._began,
            "monotonic": self._looked,
            "boot": self._boot,
        }


def boot_id() -> str:
    try:
        with open(BOOT_ID) as file:
            return file.read().strip()
    except OSError:  # not Linux: after a kill, the count resumes without the gap
        return ""
