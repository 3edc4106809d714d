"""On a system that is not supported, `make` says so before it installs anything."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT


def make(folder: Path, goal: str, programs: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs make in an empty checkout, with these shell scripts in front of the machine's programs."""
    folder.joinpath("bin").mkdir()
    for name, script in programs.items():
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, folder)
    folder.joinpath("cluster").mkdir()
    shutil.copy(CHECKOUT / "cluster" / "requirements.lock", folder / "cluster")
    search = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    # As typed in a shell: `make test` itself tells what it starts that it runs inside make.
    of_make = ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")
    outside_make = {name: value for name, value in os.environ.items() if name not in of_make}
    return subprocess.run(
        ["make", "--no-print-directory", goal],
        cwd=folder,
        env=outside_make | {"PATH": search} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("programs", "environment", "said"),
    [
        ({"uname": "echo Darwin arm64"}, {}, "runs on Linux x86_64, not on Darwin arm64; use such a machine"),
        ({"uname": "echo Linux aarch64"}, {}, "not on Linux aarch64"),
        (
            {"python3": '[ "$1" = --version ] && echo Python 3.9.2 || exit 1'},
            {},
            "Python 3.11 to 3.13 with its venv module is needed, and python3 is Python 3.9.2; name another one",
        ),
        ({}, {"CXX": "no-such-compiler"}, "no-such-compiler is not there; install one"),
    ],
)
def test_on_another_system_the_demo_says_what_is_missing_and_installs_nothing(
    tmp_path: Path, programs: dict[str, str], environment: dict[str, str], said: str
) -> None:
    done = make(tmp_path, "demo", programs, **environment)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert done.returncode == 2 and len(lines) == 1 and said in lines[0], done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_supported_system_is_taken(tmp_path: Path) -> None:
    done = make(tmp_path, "supported", {"uname": "echo Linux x86_64", "c++": "exit 0"})
    assert (done.returncode, done.stderr) == (0, "")
