"""The actor measures what a job holds, whatever its storage does."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.units import SECONDS_PER_DAY
from pipeline.ledger import actor as ledger_actor
from pipeline.ledger.account import Attempt, DevicesNow
from pipeline.ledger.actor import LedgerActor
from pipeline.ledger.rows import RowWriter

OUTAGE_S = 1.0


class Job:
    """A job that holds some devices."""

    devices = 0.0

    def now(self) -> DevicesNow:
        return DevicesNow(self.devices, "A100")


@pytest.mark.slow
def test_devices_taken_while_the_storage_does_not_answer_count_from_when_they_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job, answers, asked, write = Job(), threading.Event(), threading.Event(), RowWriter.write

    def waits(writer: RowWriter, row: dict[str, Any]) -> None:
        if row["event"] == "heartbeat":
            asked.set()
            assert answers.wait(60)
        write(writer, row)

    monkeypatch.setattr(ledger_actor, "HeldDevices", lambda kind, job_id: job)
    monkeypatch.setattr(RowWriter, "write", waits)
    attempt = Attempt("train_stage-1-a", 1, "run", "train_stage", "1", "GPU", 0.0, 0.0)
    keeper = LedgerActor(str(tmp_path), attempt, heartbeat_s=0.2, job_id="01")
    assert asked.wait(60)
    job.devices, taken = 4.0, time.monotonic()
    time.sleep(OUTAGE_S)
    counted_s, held_s = keeper._spent().stage * SECONDS_PER_DAY, 4.0 * (time.monotonic() - taken)
    answers.set()
    keeper._end("done")
    assert 0.75 * held_s < counted_s <= held_s, "the middle of the outage was taken"
