"""Jobs as processes that are forked from one which has imported what jobs import: that saves six seconds of CPU each.

Otherwise such a job equals one from the command line: a process of its own, with the given words, environment and
working directory. Other tests cover the command line itself.
"""

import os
import subprocess
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support.forked_workers import forked_workers
from tests.support.forkserver import forkserver, run_job


def start_job(words: list[str], environment: dict[str, str], cwd: Path, stdout: Path, stderr: Path) -> BaseProcess:
    """Starts `python -P WORDS...`, without waiting for it.

    Args:
        words: the job's file relative to `cwd`, as in `jobs/train_stage.py`, and its flags.
        environment: all environment variables of the job.
        cwd: its working directory.
        stdout, stderr: files that its output is appended to. They may be the same.
    """
    arguments = (words, environment, cwd, stdout, stderr, forked_workers().python)
    process = forkserver().Process(target=_become, args=arguments)
    process.start()
    return process


def run_forked_job(
    words: list[str], environment: dict[str, str], cwd: Path, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs `python -P WORDS...` to its end, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        process = start_job(words, environment, cwd, stdout, stderr)
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout_s, stdout.read_text(), stderr.read_text())
        assert process.exitcode is not None
        return subprocess.CompletedProcess(words, process.exitcode, stdout.read_text(), stderr.read_text())


def _become(words: list[str], environment: dict[str, str], cwd: Path, stdout: Path, stderr: Path, python: str) -> None:
    for path, number in ((stdout, 1), (stderr, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    run_job(words, environment, cwd, python)
