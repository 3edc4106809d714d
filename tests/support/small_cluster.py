"""A Ray cluster with token authentication in a copy of the checkout, on which users' commands are typed."""

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.forked_jobs import run_forked_job
from tests.support.forked_workers import forked_workers
from tests.support.ports import free_port, wait_for_jobs_api
from tests.support.prometheus import Prometheus
from tests.support.small_run import small_checkout

START = ("ray", "start", "--head", "--block", "--num-cpus=3", "--disable-usage-stats", "--include-log-monitor=False")


class SmallCluster:
    """A copy of the checkout with a small `demo` recipe, and `ray start --head` running in it."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.corpus = small_checkout(folder), folder / "corpus"
        self.runs = self.checkout / "runs" / "demo"
        self.environment = os.environ | {
            "PATH": forked_workers().path,
            "PYTHONPATH": str(self.checkout),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        }
        self.port, dashboard = free_port(), free_port()
        ports = [f"--port={self.port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
        # Else the agent that starts jobs gets none beside another cluster of this machine.
        ports.append(f"--dashboard-agent-listen-port={free_port()}")
        metrics_port = free_port()
        ports += [f"--metrics-export-port={metrics_port}", '--system-config={"metrics_report_interval_ms": 2000}']
        self.prometheus = Prometheus(folder / "prometheus", metrics_port)
        self.process = subprocess.Popen(
            [*START, *ports],
            cwd=self.checkout,
            env=self.environment,
            start_new_session=True,
            stdout=(folder / "ray.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        self.environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
        wait_for_jobs_api(dashboard, self.environment["RAY_AUTH_TOKEN"], time.monotonic() + 90)
        self.environment["RAY_ADDRESS"] = f"127.0.0.1:{self.port}"

    def type(self, *words: str) -> subprocess.CompletedProcess:
        """Types a command in the checkout."""
        return subprocess.run(
            words, cwd=self.checkout, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )

    def run(self, job: str, *words: str) -> subprocess.CompletedProcess:
        """Runs a job in the checkout, as `python -P jobs/JOB.py WORDS...` does."""
        return run_forked_job([f"jobs/{job}.py", *words], self.environment, self.checkout)

    def submit(self, *words: str) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        words = ("ray", "job", "submit", *words)
        return subprocess.run(
            words, cwd=self.checkout, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    def stop(self) -> None:
        """Kills the cluster at once: it has nothing to save, and an orderly end takes half a minute."""
        self.prometheus.stop()
        processes = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(timeout=60)
        _, alive = psutil.wait_procs(processes[1:], timeout=30)
        assert not alive
