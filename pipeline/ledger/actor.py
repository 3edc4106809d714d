"""Keeps the ledger in an actor: append-only rows of the devices that each attempt of a job held, and its work.

An attempt writes one row at its start, one every heartbeat, and one at its end. The actor outlives the job: if the job
is killed, the actor learns from Ray when the devices were released, and writes the last row itself. If the actor is
killed, Ray restarts it and it resumes from its last row. If all die at once, at most one heartbeat is lost.
"""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import cast

import ray
from ray.actor import ActorHandle, ActorProxy
from ray.util.metrics import Gauge

from pipeline.config.units import SECONDS_PER_DAY
from pipeline.errors import ClusterLostError, InputError
from pipeline.ledger.account import Account, Attempt, Counts, DayLimits, Moment
from pipeline.ledger.devices import HeldDevices
from pipeline.ledger.limits import LimitWatch, Spent
from pipeline.ledger.rows import RowWriter, days_of, last_rows
from pipeline.runtime.actors import actor_here
from pipeline.step_figures import StepFigures

NAMESPACE = "mars-ledger"
"""Ray namespace of the actors, which outlive the job."""
LOOKS_PER_HEARTBEAT = 10
LOOK_S = (0.05, 1.0)
"""Minimum and maximum seconds between two measurements of the held devices, beside those at each training step."""
DEVICES_A_SECOND = 256
"""Of a job with more devices they are measured less often: Ray's head lists all of them each time."""
LAST_WRITES, LAST_PAUSE_S = 5, 1.0
"""Number of attempts to write the last row, and the seconds between them."""
REREAD_EVERY = 10
"""Heartbeats between two reads of the other jobs' spending."""


class LedgerActor:
    """Keeps the rows of one attempt.

    Args:
        location: folder or prefix of a bucket of the ledger.
        attempt: the attempt.
        heartbeat_s: seconds between two rows.
        job_id: hex id of the Ray job whose devices are counted.
    """

    def __init__(self, location: str, attempt: Attempt, heartbeat_s: float, job_id: str) -> None:
        self._location, self._heartbeat_s = location, heartbeat_s
        self._held, self._rows = HeldDevices(attempt.device, job_id), RowWriter(location, attempt.attempt)
        self._account = Account(attempt, self._rows.last)
        self._lock, self._writing, self._ended = threading.Lock(), threading.Lock(), threading.Event()
        self._problem, self._over, self._devices = "", False, 0.0
        self._limits = LimitWatch(attempt)
        # Not `job`: Prometheus sets that label on every series.
        tags = {"run": attempt.run, "work": attempt.job, "stage": attempt.stage, "device": attempt.device}
        self._days = Gauge("mars_gpu_days", "GPU-days, or CPU-days, of all attempts", ("scope", *tags))
        self._share = Gauge("mars_budget_share", "GPU-days over their limit", ("scope", *tags))
        self._days.set_default_tags(tags)
        self._share.set_default_tags(tags)
        self._others = self._spent_by_others()
        self._record_devices()
        self._write("heartbeat" if self._rows.last else "start")
        threading.Thread(target=self._measure, name="ledger measures", daemon=True).start()
        threading.Thread(target=self._write_heartbeats, name="ledger writes", daemon=True).start()

    @ray.method
    def add(self, counts: Counts) -> None:
        with self._lock:
            self._account.add(**asdict(counts))

    @ray.method
    def train_step(self, figures: StepFigures) -> tuple[list[str], str]:
        """Counts a training step. Returns warnings about limits; see `LimitWatch.check`."""
        self._record_devices()
        with self._lock:
            self._account.train_step(figures)
        return self._limits.check(self._spent())

    @ray.method
    def working(self) -> None:
        self._record_devices()
        with self._lock:
            self._account.working()

    @ray.method
    def spent(self) -> Spent:
        """Returns the days spent so far."""
        return self._spent()

    def _spent(self) -> Spent:
        own = self._account.device_seconds / SECONDS_PER_DAY
        return Spent(own, self._others[0] + own, self._others[1] + own)

    @ray.method
    def end(self, outcome: str, done_at: Moment) -> str:
        """Writes the last row; the job's work ended at `done_at`. Returns the problem with it, or an empty string."""
        return self._end(outcome, done_at)

    def _end(self, outcome: str, done_at: Moment | None = None) -> str:
        self._ended.set()
        self._record_devices()
        if done_at:
            with self._lock:
                self._account.job_done(done_at)
        for _ in range(LAST_WRITES):
            self._write(f"end: {outcome}")
            if not self._problem:
                break
            time.sleep(LAST_PAUSE_S)
        return self._problem

    def _measure(self) -> None:
        """Measures until the end, also while a storage does not answer. If the job died, writes the last row."""
        min_s, max_s = LOOK_S
        pause_s = min(max(self._heartbeat_s / LOOKS_PER_HEARTBEAT, min_s), max_s)
        while not self._ended.wait(max(pause_s, self._devices / DEVICES_A_SECOND)):
            self._record_devices()
            if self._over:
                self._end("killed")
                ray.kill(ray.get_runtime_context().current_actor)
            self._show()

    def _write_heartbeats(self) -> None:
        """Writes a row every heartbeat until the end. Those that are due while one waits for the storage are skipped,
        since rows are cumulative."""
        started, beats = time.monotonic(), 0
        while not self._ended.wait(self._heartbeat_s - (time.monotonic() - started) % self._heartbeat_s):
            beats += 1
            if beats % REREAD_EVERY == 0:
                try:
                    self._others = self._spent_by_others()
                except (OSError, InputError) as error:
                    self._problem = f"the ledger in {self._location!r} could not be read: {error}"
            self._write("heartbeat")

    def _show(self) -> None:
        attempt, spent = self._account.attempt, self._spent()
        for scope, days, limit in (
            ("stage", spent.stage, attempt.budget_gpu_days),
            ("run", spent.run, attempt.run_budget_gpu_days),
        ):
            self._days.set(days, {"scope": scope})
            if limit:
                self._share.set(days / limit, {"scope": scope})

    def _record_devices(self) -> None:
        """Records the devices that are held now, if Ray answers."""
        try:
            held = self._held.now()
        except Exception as error:  # errors of many types while Ray's head is down: until it is back, nothing changed
            self._problem = f"Ray does not say what the job holds: {type(error).__name__}: {error}"
            return
        with self._lock:
            self._account.record_devices(held)
            self._devices = held.devices
            self._over = held.job_ended_ago_s is not None

    def _write(self, event: str) -> None:
        """Writes a row. Rows are cumulative: a row that could not be written is covered by the next one."""
        with self._writing:  # and not `_lock`: steps are counted while a storage does not answer
            with self._lock:
                if self._ended.is_set() and event == "heartbeat":
                    return
                row = self._account.row(event)
            try:
                self._rows.write(row)
                self._problem = ""
            except (OSError, InputError) as error:
                self._problem = f"the ledger in {self._location!r} could not be written: {error}; make room there"

    def _spent_by_others(self) -> tuple[float, float]:
        """Returns the days of the other attempts of the stage and of the run, on the same kind of device."""
        attempt, (rows, _) = self._account.attempt, last_rows(self._location)
        others = [row for row in rows if row["attempt"] != attempt.attempt]
        return days_of(others, attempt.job, attempt.stage, attempt.device)


def new_attempt(location: str, run: str, job: str, stage: str, device: str, limits: DayLimits) -> Attempt:
    """Returns the next attempt of a ledger."""
    rows, _ = last_rows(location)
    number = max((int(row["number"]) for row in rows), default=0) + 1
    name = f"{job}{stage and '-' + stage}-{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
    return Attempt(name, number, run, job, stage, device, limits.stage_gpu_days, limits.run_gpu_days)


@contextmanager
def keep_ledger(
    location: str, attempt: Attempt, heartbeat_s: float, problems: list[str]
) -> Iterator[ActorProxy[LedgerActor]]:
    """Keeps the ledger of the enclosed work of this Ray job. Yields the actor's handle.

    Args:
        location, attempt, heartbeat_s: see `LedgerActor`.
        problems: receives a line if the last row could not be written.
    """
    lasting = {"name": attempt.attempt, "namespace": NAMESPACE, "lifetime": "detached"}
    actor_class = actor_here(LedgerActor).options(**lasting, max_restarts=-1, max_task_retries=-1)
    actor = actor_class.remote(location, attempt, heartbeat_s, ray.get_runtime_context().get_job_id())
    ray.get(actor.spent.remote())  # the first row is written
    outcome = "failed"
    try:
        yield actor
        outcome = "done"
    except ClusterLostError:
        outcome = ""  # the actor has ended with the cluster
        raise
    finally:
        if outcome:
            if problem := ray.get(actor.end.remote(outcome, Moment.now())):
                problems.append(problem)
            ray.kill(cast(ActorHandle[LedgerActor], actor))
