"""Ray's own processes get a cgroup of their own, by the command that the cluster files start Ray with.

It needs a writable cgroup of version 2, as in a container with `--security-opt writable-cgroups=true`; no other Ray may
run there: .venv/bin/python -m pytest -m long tests/end_to_end/test_resource_isolation.py
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.resource_isolation import NotIsolatedError, check_cgroup, find_cgroup
from tests.support.checkout import CHECKOUT
from tests.support.ports import free_port

ANSWER_S = 600.0
TASK = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("task:", ray.get(ray.remote(lambda: open("/proc/self/cgroup").read().strip()).remote()))
"""


def own_cgroup() -> Path:
    folder = find_cgroup(Path("/proc/self/mounts").read_text(), Path("/proc/self/cgroup").read_text())
    check_cgroup(folder)
    return folder


def cgroup_of(process: str) -> list[str]:
    """Returns the cgroups of all processes with this name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() == process:
                found.append((folder / "cgroup").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
    return found


@pytest.mark.long
def test_rays_processes_and_its_workers_are_in_cgroups_of_their_own(tmp_path: Path) -> None:
    try:
        base = own_cgroup()
    except NotIsolatedError as reason:
        pytest.skip(str(reason))
    address = f"127.0.0.1:{free_port()}"
    command = (
        f"exec ray start --block --head --node-ip-address=127.0.0.1 --port={address.split(':')[1]} --num-cpus=1 "
        f"--include-dashboard=false --disable-usage-stats $(python -m cluster.resource_isolation)"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": f"{CHECKOUT}:{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"RAY_raylet_start_wait_time_s": f"{ANSWER_S:g}"}
    log = tmp_path / "log"
    with log.open("w") as said:
        ray_start = subprocess.Popen(["bash", "-c", command], cwd=CHECKOUT, env=environment, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + ANSWER_S
        while "Ray runtime started" not in log.read_text():
            assert ray_start.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(1)
        [node] = base.glob("ray-node_*")
        task = subprocess.run(
            [sys.executable, "-c", TASK, address], env=environment, capture_output=True, text=True, timeout=ANSWER_S
        )
        assert task.returncode == 0, task.stderr
        assert f"{node.name}/user/workers" in task.stdout
        for process in ("raylet", "gcs_server"):
            assert [each for each in cgroup_of(process) if f"{node.name}/system" in each], cgroup_of(process)
        assert int((node / "system" / "cpu.weight").read_text()) > 0
        assert int((node / "system" / "memory.low").read_text()) >= 500 * 10**6
        high, most = (int((node / "user" / name).read_text()) for name in ("memory.high", "memory.max"))
        assert high <= most - 500 * 10**6, "workers leave Ray's own processes their memory"
    finally:
        ray_start.send_signal(signal.SIGTERM)
        ray_start.wait(60)
