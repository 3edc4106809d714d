"""A folder that takes no files ends a job with one line and exit code 3."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from jobs.common.cli import run_job
from tokenization.errors import InputError
from tokenization.files.checks import check_writable, unwritable


@dataclass(frozen=True)
class Options:
    """No flags."""


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "error: '/full/a': No space left on device; make room there, or choose another folder"),
        (errno.EACCES, "error: '/full/a': Permission denied; get permission to write there, or choose another folder"),
        (
            errno.EROFS,
            "error: '/full/a': Read-only file system; get permission to write there, or choose another folder",
        ),
    ],
)
@pytest.mark.parametrize("in_task", [False, True])
def test_a_full_disk_and_a_missing_permission_are_one_line(
    number: int, message: str, in_task: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(options: Options) -> None:
        error = OSError(number, os.strerror(number), "/full/a")
        raise RayTaskError("finish", "a traceback", error) if in_task else error

    with pytest.raises(SystemExit) as ended:
        run_job(Options, job, "A job.", [])
    assert ended.value.code == 3
    assert capsys.readouterr().err.strip() == message


def test_other_errors_are_no_question_of_the_folder() -> None:
    assert unwritable(ValueError("x")) == unwritable(OSError(errno.EIO, "x")) == unwritable(OSError("x")) == ""


def test_a_folder_without_permission_is_known_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_writable(tmp_path / "new" / "run")
    assert not list(tmp_path.iterdir())
    # Root may write wherever its mounts let it, so permission is taken away here.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match=f"'{tmp_path}' cannot be written; get permission to write there, or choose"):
        check_writable(tmp_path / "new" / "run")
