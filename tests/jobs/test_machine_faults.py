"""Machines on which Ray cannot start as it is: one line says what to set, before Ray has started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.fault_matrix import FAULTS, nothing_left, some_cells, words_of
from tests.support.forked_jobs import run_forked_job
from tests.support.past_run import copy_past_run
from tests.support.small_disk import small_disk

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


@pytest.mark.parametrize("job", some_cells("no permission"))
def test_a_root_without_write_permission_is_told_before_ray_starts(tmp_path: Path, job: str) -> None:
    with small_disk(tmp_path / "disk", 16 * 2**20) as disk:
        copy_past_run(disk / "copy")
        words = words_of(job, disk / "copy")
        if job == "tokenize":
            (disk / "copy" / "past" / "tokens" / "00000.parquet").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = run(words)
    FAULTS["no permission"].check(done)
    assert "Ray: started" not in done.stderr, done.stderr


IN_A_NAMESPACE = """
import ctypes, os, runpy, subprocess, sys
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
assert not ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS | CLONE_NEWNET), os.strerror(ctypes.get_errno())
for line in sys.argv[1].strip().splitlines():
    subprocess.run(line.split(), check=True)
del sys.argv[:2]
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs commands in namespaces of mounts and networks, and then a job there."""
SMALL_SHARED_MEMORY = """
mount --make-rprivate /
mount -t tmpfs -o size=64m none /dev/shm
"""
ONLY_IPV6 = """
ip link set lo up
ip link add name only6 type veth peer name other
ip link set only6 up
ip link set other up
ip -6 address add fd00::6/64 dev only6 nodad
ip -6 route add default dev only6
"""


def may_have_namespaces() -> bool:
    words = ["unshare", "--mount", "--net", "ip", "link", "add", "name", "only6", "type", "veth"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_have_namespaces(), reason="this user may not make namespaces")
def test_shared_memory_too_small_for_the_workers_is_told_before_ray_starts(past: Path, tmp_path: Path) -> None:
    script = tmp_path / "in_a_namespace.py"
    script.write_text(IN_A_NAMESPACE)
    done = run([str(script), SMALL_SHARED_MEMORY, *words_of("train_stage", past)])
    assert done.returncode == 2, done.stderr
    assert "/dev/shm has 64 MiB free, but 2 CPU workers need 132; enlarge it" in done.stderr.splitlines()[-1]
    assert "Ray: started" not in done.stderr


@pytest.mark.long
@pytest.mark.skipif(not may_have_namespaces(), reason="this user may not make namespaces")
def test_a_job_runs_where_the_machine_has_an_ipv6_address_alone(past: Path, tmp_path: Path) -> None:
    """Its workers are not forked from the tests' process, which is in another network."""
    script = tmp_path / "in_a_namespace.py"
    script.write_text(IN_A_NAMESPACE)
    words = [sys.executable, "-P", str(script), ONLY_IPV6, *words_of("train_stage", past)]
    done = subprocess.run(
        words, env=os.environ | {"RAY_ADDRESS": "local"}, cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "stage 2: finished" in done.stderr


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
