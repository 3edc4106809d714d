"""A Ray that a job starts for itself has no more processes than the job needs, and leaves none behind."""

import json
import os
import subprocess
import sys
from typing import Any

import psutil
import pytest

STARTS = """
import json, psutil, ray
from pipeline.runtime.ray_connection import connect_to_ray

connect_to_ray()
assert ray.get(ray.remote(lambda: 3).remote()) == 3
found = psutil.Process().children(recursive=True)
print(json.dumps({each.pid: " ".join(each.cmdline()) for each in found}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("shows_output", ["0", "1"])
def test_a_job_on_a_machine_without_a_gpu_starts_no_dashboard(shows_output: str) -> None:
    """`ray.init` would wait a second or two for it, and the first pictures of a tokenization with it."""
    own = os.environ | {"RAY_ADDRESS": "local", "MARS_WORKER_OUTPUT": shows_output}
    done = subprocess.run([sys.executable, "-c", STARTS], env=own, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    words: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    running = " ".join(words.values())
    assert "raylet" in running and "dashboard/dashboard.py" not in running
    assert ("log_monitor.py" in running) is (shows_output == "1"), "workers' output is shown by the log monitor"
    left = [psutil.Process(int(pid)) for pid in words if psutil.pid_exists(int(pid))]
    assert not psutil.wait_procs(left, timeout=15)[1]
