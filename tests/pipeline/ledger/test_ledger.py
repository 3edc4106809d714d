"""The ledger is right whatever is killed, whatever a clock does, on a disk and in S3."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline.config.units import SECONDS_PER_DAY
from pipeline.errors import InputError
from pipeline.ledger.account import Account, Attempt, DevicesNow, Moment, boot_id
from pipeline.ledger.rows import RowWriter
from pipeline.ledger.table import read_ledger
from pipeline.runtime.ray_start_private import without_dashboard_and_log_monitor
from pipeline.step_figures import StepFigures
from tests.support.checkout import CHECKOUT
from tests.support.faulty_server import ServerOf
from tests.support.s3 import BUCKET
from tokenization.files.storage import open_storage

HEARTBEAT_S = 1.0


def attempt_of(name: str = "train_stage-1-a", number: int = 1, stage: str = "1") -> Attempt:
    return Attempt(name, number, "run", "train_stage", stage, "GPU")


class Clock:
    """A clock that a test moves."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def step(number: int, **figures: float) -> StepFigures:
    usual = {"step_s": 1.0, "data_wait_s": 0.25, "samples": 8, "tokens": 80, "flop": 1e9}
    return StepFigures.from_json(usual | {"step": number} | figures)


def account_at(clock: Clock, wall: Clock, last_row: dict | None = None) -> Account:
    return Account(attempt_of(), last_row, monotonic=clock, wall=wall)


def test_a_clock_that_jumps_changes_no_duration_and_is_told_of(tmp_path: Path) -> None:
    clock, wall = Clock(1000.0), Clock(5e8)
    account = account_at(clock, wall)
    for _ in range(100):
        clock.now += 1
        wall.now += 1 if clock.now < 1050 else -60
        account.record_devices(DevicesNow(8, "A100"))
    RowWriter(str(tmp_path), "train_stage-1-a").write(account.row("heartbeat"))
    ledger = read_ledger(tmp_path)
    assert ledger.table["gpu_days"].item() == pytest.approx(8 * 99.5 / SECONDS_PER_DAY)
    assert "clock of the machine" in ledger.remarks[0] and "NTP" in ledger.remarks[0]


def test_what_a_keeper_had_counted_when_it_was_killed_goes_on_in_the_next(tmp_path: Path) -> None:
    """The devices were held in between, too, and that time is measured: both keepers use one machine's clock."""
    clock, wall = Clock(0.0), Clock(5e8)
    account = account_at(clock, wall)
    account.record_devices(DevicesNow(4, "A100"))
    clock.now = 10
    account.record_devices(DevicesNow(4, "A100"))
    kinds = {"update_s": 0.25, "flop/captioning": 1e9, "forward_s/captioning": 0.5}
    account.train_step(step(7, **kinds))
    RowWriter(str(tmp_path), "train_stage-1-a").write(account.row("heartbeat"))
    clock.now = 17
    again = account_at(clock, wall, RowWriter(str(tmp_path), "train_stage-1-a").last)
    again.record_devices(DevicesNow(4, "A100"))
    again.train_step(step(8, **kinds))
    row = again.row("end: done")
    assert row["kinds"] == {"captioning": [1e9, 0.5]}, "without the attempt's first step"
    assert row["update_seconds"] == 0.5
    assert row["device_seconds"] == 4 * 17 and row["steps"] == 2 and row["first_step"] == 6
    assert row["elapsed_seconds"] == 17 and row["productive_seconds"] == 1.5


def test_a_keeper_that_starts_after_the_job_released_its_devices_counts_them_until_then(tmp_path: Path) -> None:
    """A busy machine starts a killed actor again only after some seconds, and the job may have ended in between."""
    clock, wall = Clock(0.0), Clock(5e8)
    account = account_at(clock, wall)
    for clock.now in (0.0, 10.0):
        account.record_devices(DevicesNow(4, "A100"))
    RowWriter(str(tmp_path), "train_stage-1-a").write(account.row("heartbeat"))
    clock.now = 20
    again = account_at(clock, wall, RowWriter(str(tmp_path), "train_stage-1-a").last)
    again.record_devices(DevicesNow(0, ""))
    again.job_done(Moment(19.0, "another boot"))
    assert again.device_seconds == 4 * 15, "another machine's clock says nothing: the middle is taken"
    again.job_done(Moment(19.0, boot_id()))
    again.job_done(Moment(19.0, boot_id()))
    assert again.device_seconds == 4 * 19


def test_time_is_told_apart_into_starting_waiting_checkpoints_and_work() -> None:
    clock = Clock(0.0)
    account = account_at(clock, Clock(0.0))
    account.record_devices(DevicesNow(2, "A100"))
    clock.now = 31
    account.record_devices(DevicesNow(2, "A100"))
    account.train_step(step(101))
    clock.now = 40
    account.record_devices(DevicesNow(2, "A100"))
    account.train_step(step(102, checkpoint_stall_s=3.0, between_steps_s=2.0))
    row = account.row("heartbeat")
    assert (row["starting_seconds"], row["data_wait_seconds"], row["checkpoint_seconds"]) == (30, 0.5, 3)
    assert row["productive_seconds"] == 2 * 0.75 + 2 and row["seconds"] == 40
    assert row["marks"] == [[101, 0.75]], "so much work lay before the checkpoint after step 101"


def test_a_torn_last_line_costs_its_row_alone_and_is_told_of(tmp_path: Path) -> None:
    writer = RowWriter(str(tmp_path), "train_stage-1-a")
    account = account_at(Clock(0.0), Clock(0.0))
    writer.write(account.row("start"))
    account.add(steps=5)
    writer.write(account.row("heartbeat"))
    path = tmp_path / "train_stage-1-a.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:90])
    ledger = read_ledger(tmp_path)
    assert ledger.table["steps"].item() == 5
    assert "torn line of 90 bytes" in ledger.remarks[0] and "nothing to do" in ledger.remarks[0]
    RowWriter(str(tmp_path), "train_stage-1-a").write(account.row("end: done"))
    assert read_ledger(tmp_path).table["event"].item() == "end: done" and not read_ledger(tmp_path).remarks


def test_a_line_in_the_middle_that_is_no_row_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "train_stage-1-a.jsonl"
    row = json.dumps(account_at(Clock(0.0), Clock(0.0)).row("start"))
    path.write_text(f"{row}\nsomebody's note\n{row}\n")
    with pytest.raises(InputError, match=r"line 2 is no row .*put it back"):
        read_ledger(tmp_path)


def test_two_runs_of_one_name_both_count_and_are_told_of(tmp_path: Path) -> None:
    for name, started in (("train_stage-1-a", 0.0), ("train_stage-1-b", 50.0)):
        clock, wall = Clock(started), Clock(5e8 + started)
        account = Account(attempt_of(name), monotonic=clock, wall=wall)
        account.record_devices(DevicesNow(8, "A100"))
        clock.now, wall.now = clock.now + 100, wall.now + 100
        account.record_devices(DevicesNow(8, "A100"))
        RowWriter(str(tmp_path), name).write(account.row("heartbeat"))
    ledger = read_ledger(tmp_path)
    assert ledger.table["gpu_days"].sum() == pytest.approx(2 * 800 / SECONDS_PER_DAY)
    assert len(ledger.remarks) == 1 and "ran at the same time for 50 s" in ledger.remarks[0]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_in_a_bucket_a_row_is_an_object_and_the_last_one_says_all(scheme: str, server_of: ServerOf) -> None:
    server_of(scheme)
    place = f"{scheme}://{BUCKET}/runs/ledger"
    writer = RowWriter(place, "train_stage-1-a")
    account = account_at(Clock(0.0), Clock(0.0))
    for number in range(3):
        account.train_step(step(number + 1))
        writer.write(account.row("heartbeat"))
        assert read_ledger(place).table["steps"].item() == number + 1, "it can be read while the run goes on"
    assert open_storage(place).names() == [f"train_stage-1-a/{number:08d}.jsonl" for number in range(3)]
    again = RowWriter(place, "train_stage-1-a")
    assert again.last and again.last["steps"] == 3
    again.write(account.row("end: done"))
    assert len(open_storage(place).names()) == 4, "nothing is written over"


class Poller:
    """Adds up the CPUs that are not available, as Ray shows them to anybody."""

    def __init__(self) -> None:
        self.held_seconds, self._ended = 0.0, threading.Event()
        self._total = ray.cluster_resources()["CPU"]
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def held(self) -> float:
        return float(self._total - ray.available_resources().get("CPU", 0.0))

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return self.held_seconds

    def _poll(self) -> None:
        looked, before = time.monotonic(), self.held()
        while not self._ended.wait(0.02):
            held, now = self.held(), time.monotonic()
            self.held_seconds += (now - looked) * (before + held) / 2
            looked, before = now, held


class Driver:
    def __init__(self, place: Path, stage: int, seconds: float, address: str) -> None:
        words = [sys.executable, "-m", "tests.support.ledger_driver", str(place), str(stage), str(seconds)]
        environment = os.environ | {"RAY_ADDRESS": address}
        self.process = subprocess.Popen(words, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True)

    def ledger_pid(self) -> int:
        """The keeper's pid, once it holds its CPUs."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.mark.slow
def test_whatever_is_killed_the_ledger_adds_up_to_what_a_poller_saw_and_at_most_a_heartbeat_is_lost(
    tmp_path: Path,
) -> None:
    with without_dashboard_and_log_monitor(shows_output=False):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 10})
    ray.init(cluster.address, log_to_driver=False)
    try:
        poller = Poller()
        # Left alone; the driver is killed; the ledger's keeper is; both are.
        drivers = [Driver(tmp_path, stage, seconds, cluster.address) for stage, seconds in enumerate((14, 60, 16, 60))]
        keepers = [driver.ledger_pid() for driver in drivers]
        time.sleep(9)
        os.kill(keepers[2], signal.SIGKILL)
        os.kill(keepers[3], signal.SIGKILL)
        drivers[3].process.kill()
        time.sleep(2)
        drivers[1].process.kill()
        for driver in drivers:
            driver.process.wait(timeout=60)
        deadline = time.monotonic() + 30
        while poller.held() or not read_ledger(tmp_path).table["event"].str.startswith("end").all():
            assert time.monotonic() < deadline, read_ledger(tmp_path).table[["stage", "event", "held"]]
            time.sleep(0.2)
        seen, table = poller.stop(), read_ledger(tmp_path).table
        counted = table["gpu_days"].sum() * SECONDS_PER_DAY
        assert seen > 50 and counted == pytest.approx(seen, rel=0.01)
        ends = dict(zip(table["stage"], table["event"], strict=True))
        assert ends == {"0": "end: done", "1": "end: killed", "2": "end: done", "3": "end: killed"}
        assert table.set_index("stage")["steps"]["2"] == pytest.approx(32, abs=4), "in the second that the keeper lost"

        last = Driver(tmp_path / "last", 9, 60, cluster.address)
        last.ledger_pid()
        time.sleep(3.5)
    finally:
        ray.shutdown()
        for node in cluster.list_all_nodes():
            for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True):
                process.kill()
        killed = time.time()
        cluster.shutdown()
    last.process.kill()
    last.process.wait()
    row = read_ledger(tmp_path / "last").table.iloc[-1]
    assert row["event"] == "heartbeat" and killed - row["time"] < HEARTBEAT_S + 0.5 and row["seconds"] > 2
