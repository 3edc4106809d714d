"""Environments do not compile each other's ops anew; a lock that a killed process left behind stops nobody for ever."""

import os
import threading
import time
from pathlib import Path

import pytest

from pipeline.runtime import compiled_ops
from pipeline.runtime.compiled_ops import STALE_AFTER_S, await_compilation, set_up_compilation
from pipeline.runtime.deepspeed_private import SHARED_MEMORY_OP
from pipeline.runtime.torch_private import extension_folder
from tokenization import waiting


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
    await_compilation(told.append)
    assert not lock.exists() and len(told) == 1 and str(lock) in told[0] and "was killed" in told[0]


@pytest.mark.slow
def test_a_lock_that_is_held_is_waited_for_and_told_of(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_S", 0.2)
    monkeypatch.setattr(compiled_ops, "POLL_S", 0.05)
    lock.touch()
    threading.Timer(1.0, lock.unlink).start()
    told: list[str] = []
    started = time.monotonic()
    await_compilation(told.append)
    assert time.monotonic() - started > 0.9
    assert len(told) == 1 and "waiting for another process, which compiles" in told[0]


def test_without_a_lock_nothing_is_said(lock: Path) -> None:
    await_compilation(pytest.fail)


def test_each_environment_compiles_into_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise two checkouts take turns compiling the op at every stage, and wait for each other's lock."""
    folders = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr("sys.prefix", str(tmp_path / name))
        monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
        set_up_compilation()
        folders.append(extension_folder(SHARED_MEMORY_OP))
    assert len(set(folders)) == 2 and all(tmp_path in folder.parents for folder in folders)


def test_where_neither_environment_nor_home_can_be_written_ops_go_to_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    set_up_compilation()
    assert Path(os.environ["TORCH_EXTENSIONS_DIR"]).parent == tmp_path


def test_a_folder_that_the_user_has_chosen_stays(lock: Path) -> None:
    set_up_compilation()
    assert extension_folder(SHARED_MEMORY_OP) == lock.parent
