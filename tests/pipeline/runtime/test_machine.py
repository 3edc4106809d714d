"""On odd but ordinary machines Ray starts, or one line says what to set."""

import os
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.runtime.machine import (
    FOLDER_BYTES,
    SOCKET_BYTES,
    check_shared_memory,
    needs_own_token,
    open_files,
    ray_folder,
)

SHORT = "/tmp"


def test_a_temporary_folder_too_long_for_sockets_is_not_used(tmp_path: Path) -> None:
    long = tmp_path / ("batch-system-" * 8)
    long.mkdir()
    assert ray_folder({}, [str(long), SHORT]) == SHORT
    with pytest.raises(UsageError, match=f"RAY_TMPDIR is .* too long for Ray's sockets .at most {FOLDER_BYTES}."):
        ray_folder({"RAY_TMPDIR": str(long)}, [SHORT])
    with pytest.raises(UsageError, match="no folder is fit .* set RAY_TMPDIR to a folder of at most"):
        ray_folder({}, [str(long)])
    assert 30 < FOLDER_BYTES < SOCKET_BYTES


def test_a_folder_of_another_users_ray_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {"/tmp/ray", "/tmp"}
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in theirs - {"/tmp"})
    monkeypatch.setattr(Path, "exists", lambda path: str(path) in theirs | {"/"})
    assert ray_folder({}, [SHORT]) == f"/tmp/ray-{os.getuid()}"
    with pytest.raises(UsageError, match="RAY_TMPDIR is '/tmp', where this user may not write to '/tmp/ray'; set it"):
        ray_folder({"RAY_TMPDIR": "/tmp"}, [SHORT])


def test_a_file_in_the_place_of_the_folder_is_named() -> None:
    with pytest.raises(UsageError, match="RAY_TMPDIR is '/etc/passwd', where '/etc/passwd' is a file"):
        ray_folder({"RAY_TMPDIR": "/etc/passwd"}, [])


def test_the_limit_of_open_files_is_raised_as_far_as_needed_and_possible() -> None:
    assert open_files(256, 4096) == 4096
    assert open_files(256, resource.RLIM_INFINITY) == 65536
    assert open_files(1024, 1_048_576) == 65536
    assert open_files(1_048_576, 1_048_576) == 1_048_576
    assert open_files(resource.RLIM_INFINITY, resource.RLIM_INFINITY) == resource.RLIM_INFINITY
    with pytest.raises(UsageError, match="may open 256 files, but Ray needs 1024; raise the limit with `ulimit -n"):
        open_files(256, 256)


def test_shared_memory_that_is_too_small_for_the_workers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(64 * 2**20))
    with pytest.raises(UsageError, match="/dev/shm has 64 MiB free, but 2 CPU workers need 132; enlarge it, as with"):
        check_shared_memory(2)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2 * 2**30))
    check_shared_memory(2)


def test_a_home_that_cannot_be_written_needs_no_file_of_rays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not needs_own_token(), "Ray keeps a token there"
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert needs_own_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123")
    assert not needs_own_token()
