"""Adds up the CPUs of a cluster that are not free, as Ray shows them to anybody."""

import os
import subprocess
import sys
import time
from pathlib import Path

import ray

from tests.support.checkout import CHECKOUT

LOOK_S = 0.1


class HeldCpus:
    """A process that watches the cluster, since a driver of Ray ends with the cluster. Start one for each head.

    Args:
        environment: environment variables of a process that joins the cluster.
        file: the process writes the time of day in s, the CPU-seconds until then, and the CPUs now there.
    """

    def __init__(self, environment: dict[str, str], file: Path) -> None:
        self._file = file
        words = [sys.executable, "-m", "tests.support.soak.held", str(file)]
        log = file.with_suffix(".log").open("w")
        self._process = subprocess.Popen(words, cwd=CHECKOUT, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not file.exists():
            assert self._process.poll() is None and time.monotonic() < deadline, file.with_suffix(".log").read_text()
            time.sleep(0.1)

    def stop(self) -> float:
        """Ends it. Returns the CPU-seconds that were held."""
        self._process.kill()
        self._process.wait()
        return float(self._file.read_text().splitlines()[-1].split()[1])


def _held() -> float:
    return float(ray.cluster_resources().get("CPU", 0.0) - ray.available_resources().get("CPU", 0.0))


def main(file: Path) -> None:
    ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False)
    seconds, looked, before = 0.0, time.monotonic(), _held()
    with file.open("w", buffering=1) as lines:
        lines.write(f"{time.time():.2f} {seconds} {before}\n")
        while True:
            time.sleep(LOOK_S)
            held, now = _held(), time.monotonic()
            seconds += (now - looked) * (before + held) / 2
            looked, before = now, held
            lines.write(f"{time.time():.2f} {seconds} {before}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
