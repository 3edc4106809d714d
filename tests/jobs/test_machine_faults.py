"""Machines on which Ray cannot start as it is: one line says what to set, before Ray has started."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.fault_matrix import FAULTS, nothing_left, some_cells, words_of
from tests.support.forked_jobs import run_forked_job
from tests.support.past_run import copy_past_run

pytestmark = pytest.mark.slow
LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in its second stage."""
    folder = tmp_path_factory.mktemp("past") / "copy"
    copy_past_run(folder)
    return folder


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return run_forked_job(words, os.environ | {"RAY_ADDRESS": "local"} | environment, CHECKOUT)


@pytest.mark.parametrize("job", some_cells("long folder"))
def test_a_folder_too_long_for_sockets_is_told(past: Path, job: str) -> None:
    with nothing_left(past):
        FAULTS["long folder"].check(run(words_of(job, past), RAY_TMPDIR=f"/tmp/{'x' * 99}"))


@pytest.mark.parametrize("job", some_cells("few files"))
def test_too_few_open_files_are_told(past: Path, tmp_path: Path, job: str) -> None:
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)
    with nothing_left(past):
        FAULTS["few files"].check(run([str(script), *words_of(job, past)]))


@pytest.mark.parametrize("job", some_cells("file above"))
def test_a_file_above_the_root_is_told(past: Path, tmp_path: Path, job: str) -> None:
    (tmp_path / "file").touch()
    with nothing_left(tmp_path):
        FAULTS["file above"].check(run([*words_of(job, past)[:-1], str(tmp_path / "file" / "runs")]))


def test_a_job_runs_where_a_batch_system_made_the_temporary_folder_long(past: Path, tmp_path: Path) -> None:
    """And with a home that cannot be written, and proxies in the environment that answer to nobody."""
    long = tmp_path / ("batch-system-" * 8)
    long.mkdir()
    odd = {"TMPDIR": str(long), "HOME": "/proc/no/home", "XDG_CACHE_HOME": ""}
    odd |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"} | odd
    done = run_forked_job(words_of("inspect_tokens", past), environment | {"RAY_ADDRESS": "local"}, CHECKOUT)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "Ray: its files are in /tmp" in done.stderr
