"""A lock that a killed process left behind stops nobody for ever, and nobody waits without being told."""

import os
import threading
import time
from pathlib import Path

import pytest

from pipeline.runtime import extension_lock
from pipeline.runtime.deepspeed_private import SHARED_MEMORY_OP
from pipeline.runtime.extension_lock import STALE_AFTER_S, await_extension_lock


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    path = tmp_path / SHARED_MEMORY_OP / "lock"
    path.parent.mkdir()
    return path


def test_a_lock_left_behind_is_removed_and_named(lock: Path) -> None:
    lock.touch()
    before = time.time() - STALE_AFTER_S - 10
    os.utime(lock, (before, before))
    told: list[str] = []
    await_extension_lock(told.append)
    assert not lock.exists() and len(told) == 1 and str(lock) in told[0] and "was killed" in told[0]


def test_a_lock_that_is_held_is_waited_for_and_told_of(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension_lock, "LOG_AFTER_S", 0.2)
    monkeypatch.setattr(extension_lock, "POLL_S", 0.05)
    lock.touch()
    threading.Timer(1.0, lock.unlink).start()
    told: list[str] = []
    started = time.monotonic()
    await_extension_lock(told.append)
    assert time.monotonic() - started > 0.9
    assert len(told) == 1 and "waits while another process compiles" in told[0]


def test_without_a_lock_nothing_is_said(lock: Path) -> None:
    await_extension_lock(pytest.fail)
