"""A job that is started again whenever it ends early, as an operator or a supervisor would."""

import os
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from pipeline.errors import ExitCode
from pipeline.runtime.local_cluster import kill_tree
from tests.support.checkout import CHECKOUT
from tests.support.forked_jobs import start_job

AGAIN_AFTER_S = 1.0
KILLED = -9


@dataclass
class SoakJob:
    """A job of the soak.

    Attributes:
        name: name of its file in `jobs`.
        words: its flags.
        environment: its environment variables.
        log: file of its output.
        ends: exit codes of the processes that have ended.
        wrong: what was wrong with an end; empty if nothing was.
    """

    name: str
    words: list[str]
    environment: dict[str, str]
    log: Path
    ends: list[int] = field(default_factory=list)
    wrong: str = ""
    _process: BaseProcess | None = None
    _killed: bool = False
    _again_at: float = 0.0
    _said: int = 0

    @property
    def is_done(self) -> bool:
        return bool(self.ends) and self.ends[-1] == ExitCode.DONE

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def kill(self) -> bool:
        """Kills the driver. Returns False if there is none."""
        if self._process is None or self._process.pid is None:
            return False
        self._killed = True
        kill_tree(psutil.Process(self._process.pid))
        return True

    def look(self, excuse: str) -> None:
        """Starts the job, or checks how it ended.

        Args:
            excuse: the faults that explain an end with exit code 3; empty if there are none.
        """
        if self.is_done or self.wrong:
            return
        if self._process is None:
            if time.monotonic() >= self._again_at:
                words = [f"jobs/{self.name}.py", *self.words]
                self._killed = False
                self._process = start_job(words, self.environment, CHECKOUT, self.log, self.log)
            return
        code = self._process.exitcode
        if code is None:
            return
        self._process.close()
        self._process, self._again_at = None, time.monotonic() + AGAIN_AFTER_S
        self.ends.append(code)
        self.wrong = self._wrong_with(code, excuse)

    def stop(self) -> None:
        """Kills the job for good."""
        self.kill()
        self.wrong = self.wrong or "stopped"

    def _wrong_with(self, code: int, excuse: str) -> str:
        with self.log.open(errors="replace") as file:
            file.seek(self._said)
            said = file.read()
            self._said = file.tell()
        if "Traceback" in said:
            return f"{self.name} ended with {code} and a traceback: ...{said[-3000:]}"
        if code == ExitCode.DONE or (code == KILLED and self._killed):
            return ""
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        if code == ExitCode.INPUT and excuse and len(errors) == 1:
            return ""
        return f"{self.name} ended with {code} after {excuse or 'nothing that explains it'}: ...{said[-3000:]}"


def environment_of(cluster: dict[str, str]) -> dict[str, str]:
    """The environment of a job on a cluster: the cluster's, with the checkout."""
    return cluster | {"PYTHONPATH": str(CHECKOUT), "PATH": f"{cluster['PATH']}{os.pathsep}{os.environ['PATH']}"}
