"""Ray's workers as processes that are forked from one which has imported what they import. That saves each of them up
to seven seconds of CPU.

Ray gets a Python of its own for its processes. It runs everything as the real one does, except a Ray worker, and a job
in the form of its first line, `python -P .../jobs/NAME.py`: for those it asks `ForkedWorkers` to fork one, waits for
its end, and passes it on when it is ended itself. A worker has the environment, the working directory, the words and
the output that the raylet chose, and a job those of its caller. Ray is imported after the fork.
"""

import atexit
import json
import os
import runpy
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache, partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from pipeline.runtime.local_cluster import words_of
from tests.support.checkout import CHECKOUT
from tests.support.forkserver import forkserver, run_job, take_over

PYTHON = """#!/bin/sh
case "$1 $2" in
  */setup_worker.py" -m") exec {python} "$@" ;;  # Ray Client's server
  */setup_worker.py" "*|*/default_worker.py" "*|"-P "*jobs/*.py) exec {python} -I -S {client} {socket} "$@" ;;
  *) exec {python} "$@" ;;
esac
"""
RAY = """#!{python}
import sys
sys.executable = {ours!r}
from ray.scripts.scripts import main
sys.exit(main())
"""
CLIENT = """
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
asked = {"words": sys.argv[2:], "environment": dict(os.environ), "cwd": os.getcwd(), "pid": os.getpid()}
server.sendall(json.dumps(asked).encode() + b"\\n")
code = server.recv(1)
sys.exit(code[0] if code else 1)
"""
KILLED = 128
"""What a shell adds to the number of the signal that ended a process, for its exit code."""


class ForkedWorkers:
    """Forks the workers of the clusters that are started with its `ray`, or by a process that has its `python`.

    Attributes:
        python: a Python that runs everything but Ray's workers and jobs itself.
        path: the environment variable PATH with its `ray` in front.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forked", dir="/tmp", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        python, ray, client, address = (folder / name for name in ("python", "ray", "client.py", "socket"))
        client.write_text(CLIENT)
        python.write_text(PYTHON.format(python=sys.executable, client=client, socket=address))
        ray.write_text(RAY.format(python=sys.executable, ours=str(python)))
        for script in (python, ray):
            script.chmod(0o755)
        self.python, self.path = str(python), os.pathsep.join([str(folder), *_real_path()])
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(address))
        self._server.listen(64)
        self._workers: list[BaseProcess] = []
        self._context = forkserver()
        threading.Thread(target=self._serve, name="forks workers", daemon=True).start()

    def running(self, name: str) -> list[psutil.Process]:
        """The workers that run an actor of the class `name`."""
        found = []
        for worker in list(self._workers):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(worker.pid)
                found += [process] if name in words_of(process) else []
        return found

    def stop(self) -> None:
        """Ends the workers that are left, whose clusters have been stopped."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for worker in self._workers:
            worker.kill()
            worker.join()
        self._folder.cleanup()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # stopped
                return
            with suppress(ValueError):  # the process that asked has been ended
                asked = json.loads(connection.makefile().readline())
                become = partial(_become_job, self.python) if asked["words"][0] == "-P" else _become_worker
                worker = self._context.Process(target=become, kwargs=asked)
                worker.start()
                self._workers.append(worker)
                threading.Thread(target=_watch, args=(worker, connection), daemon=True).start()


@cache
def forked_workers() -> ForkedWorkers:
    """Returns the one of this process. It ends with the tests."""
    workers = ForkedWorkers()
    atexit.register(workers.stop)
    return workers


def _real_path() -> list[str]:
    return [str(Path(sys.executable).parent), os.environ["PATH"]]


def _watch(worker: BaseProcess, connection: socket.socket) -> None:
    """The worker ends with the process that asked for it, and that process with the worker."""
    if connection in wait([worker.sentinel, connection]):
        worker.kill()
    worker.join()
    code = worker.exitcode or 0
    with suppress(OSError):
        connection.sendall(bytes([code if code >= 0 else KILLED - code]))
    connection.close()


def _become_job(python: str, words: list[str], environment: dict[str, str], cwd: str, pid: int) -> None:
    _write_where(pid)
    run_job(words[1:], environment, cwd, python)


def _write_where(pid: int) -> None:
    """Writes output where a process does."""
    for number in (1, 2):
        file = os.open(f"/proc/{pid}/fd/{number}", os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)


def _become_worker(words: list[str], environment: dict[str, str], cwd: str, pid: int) -> None:
    os.setpgid(0, 0)  # the raylet ends a worker's whole process group
    _write_where(pid)
    take_over(environment, cwd)

    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs
    from ray._private.workers.setup_worker import parser

    # Without a runtime environment, the raylet leaves out the script that sets one up.
    setting_up = words[0].endswith("setup_worker.py")
    options, worker_words = parser.parse_known_args(words[1:] if setting_up else words)
    context = RuntimeEnvContext.deserialize(options.serialized_runtime_env_context or "{}")
    update_envs(context.env_vars)
    match context.command_prefix:
        case []:
            pass
        case ["cd", folder, "&&"]:
            os.chdir(folder)
        case _:
            raise NotImplementedError(f"a worker whose command begins with {context.command_prefix}")
    first = [str(Path(worker_words[0]).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = [*first, *(path for path in sys.path if path and Path(path) != CHECKOUT)]
    sys.argv = worker_words
    runpy.run_path(worker_words[0], run_name="__main__")
