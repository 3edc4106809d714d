"""A Python for Ray's workers that forks them from a process which has imported the large libraries already.

A new Python takes up to seven seconds of CPU to import torch, transformers and DeepSpeed; a fork of a process that has
them takes a tenth of a second. Ray runs this file in place of Python for the workers of a job that asks for it with
`forked_python`. The first one on a node starts the fork server; all of them send it their command line, environment,
working directory and output. Where no server can be reached, the command runs as an ordinary Python.

A server belongs to one raylet and one environment. It ends with the raylet, and after `IDLE_S` without a worker. It
listens on an abstract socket, which leaves no file, and serves its own user alone. Ray runs this file without
site-packages: only the server, and only after it listens, imports more than the standard library.
"""

import gc
import hashlib
import json
import os
import random
import runpy
import selectors
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SERVE = "--fork-server"
IDLE_S = 120.0
"""Seconds without a worker after which a server ends. The next attempt at a stage begins sooner."""
CHECKOUT = Path(__file__).resolve().parents[2]
OWN_PACKAGES = ("pipeline", "tokenization", "jobs", "cluster")
"""Packages that a worker imports anew: its working directory may hold another version of them."""
FORKED = b"f"
RAYLET = "RAY_RAYLET_PID"
"""Environment variable of Ray's workers with the process id of their raylet."""


def forked_python() -> str:
    """Returns the `py_executable` of a runtime environment whose workers are forked. A node that lacks this file, or
    this Python, uses what it has."""
    python, file = shlex.quote(sys.executable), shlex.quote(__file__)
    script = f'test -x {python} || exec python3 "$@"; test -e {file} || exec {python} "$@"; '
    return shlex.join(["sh", "-c", f'{script}exec {python} -I -S {file} "$@"', "sh"])


@dataclass(frozen=True)
class Program:
    """A program to run in Python: its file and arguments, its environment and its working directory."""

    words: list[str]
    environment: dict[str, str]
    folder: str

    def run(self) -> None:
        """Runs it in this process, which is a fork of the server."""
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        for name in [name for name in sys.modules if name.partition(".")[0] in OWN_PACKAGES]:
            del sys.modules[name]
        random.seed()
        sys.argv = self.words
        sys.path[0] = str(Path(self.words[0]).parent)
        runpy.run_path(self.words[0], run_name="__main__")


def main(words: list[str]) -> None:
    """Runs `python WORDS...`, forked if that is possible."""
    if words[0] == SERVE:
        if program := ForkServer(socket.socket(fileno=int(words[1])), int(words[2])).serve():
            program.run()
        return
    if raylet := os.environ.get(RAYLET):
        with suppress(OSError), _connected(raylet) as connection:
            if _run_forked(connection, words):
                return
    os.execv(sys.executable, [sys.executable, *words])


def _connected(raylet: str) -> socket.socket:
    """Connects to the server, and starts it if there is none.

    Raises:
        OSError: it cannot be reached, or is another user's.
    """
    same = sorted((name, value) for name, value in os.environ.items() if not name.startswith("RAY_"))
    digest = hashlib.sha256(json.dumps([sys.executable, __file__, same]).encode()).hexdigest()[:24]
    address = f"\0mars-fork-server-{os.getuid()}-{raylet}-{digest}"
    with socket.socket(socket.AF_UNIX) as listener, suppress(OSError):  # the address is in use: there is a server
        listener.bind(address)
        listener.listen(128)
        command = [sys.executable, "-P", __file__, SERVE, str(listener.fileno()), raylet]
        nowhere = subprocess.DEVNULL
        subprocess.Popen(command, pass_fds=[listener.fileno()], start_new_session=True, stdin=nowhere, stdout=nowhere)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
        if not _is_own(connection):
            raise PermissionError("the fork server is another user's")
    except OSError:
        connection.close()
        raise
    return connection


def _run_forked(connection: socket.socket, words: list[str]) -> bool:
    """Lets the server fork the program, and waits for its end. Returns False if the server did not fork it."""
    socket.send_fds(connection, [FORKED], [1, 2])
    asked = {"words": words, "environment": dict(os.environ), "folder": os.getcwd()}
    connection.sendall(json.dumps(asked).encode() + b"\n")
    if connection.recv(1) != FORKED:
        return False
    connection.recv(1)  # until the worker has ended; if this process is killed, the server kills the worker
    return True


def _is_own(connection: socket.socket) -> bool:
    """True if the process at the other end is this user's."""
    form = struct.Struct("3i")  # process, user, group
    return bool(form.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size))[1] == os.getuid())


@dataclass(frozen=True)
class Worker:
    """A forked worker.

    Attributes:
        pid: its process.
        asked_by: connection to the process that asked for it.
        end: file descriptor that can be read once the worker has ended.
    """

    pid: int
    asked_by: socket.socket
    end: int

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """Forks workers until its raylet ends, or until it has been idle for `IDLE_S`.

    Args:
        listener: a listening socket.
        raylet: process id of the raylet.
    """

    def __init__(self, listener: socket.socket, raylet: int) -> None:
        self._listener, self._raylet = listener, os.pidfd_open(raylet)
        self._selector, self._workers = selectors.DefaultSelector(), dict[int, Worker]()
        self._ended, self._used_at = False, time.monotonic()
        for file in (listener, self._raylet):
            self._selector.register(file, selectors.EVENT_READ)

    def serve(self) -> Program | None:
        """Imports the libraries, and answers between two of them and afterwards. Returns a forked worker's program in
        that worker, and None in the server when it ends."""
        sys.path.insert(0, str(CHECKOUT))
        from pipeline.runtime.fork_imports import importing_libraries

        for _ in importing_libraries():
            if program := self._answer(timeout_s=0.0):
                return program
        gc.collect()
        gc.freeze()  # a collection in a worker skips these objects, and so copies no page of them
        while not self._ended and (self._workers or time.monotonic() - self._used_at < IDLE_S):
            if program := self._answer(timeout_s=IDLE_S / 4):
                return program
        for worker in self._workers.values():
            worker.kill()
        return None

    def _answer(self, timeout_s: float) -> Program | None:
        """Handles what has happened since the last call. Returns a program in the worker that shall run it."""
        for key, _ in self._selector.select(timeout_s):
            if key.fd == self._raylet:
                self._ended = True
            elif key.fd == self._listener.fileno():
                if program := self._accept():
                    return program
            elif worker := self._workers.get(key.fd):
                if key.fd == worker.end:
                    self._forget(worker)
                else:  # the process that asked for it was killed
                    self._selector.unregister(worker.asked_by)
                    worker.kill()
        return None

    def _accept(self) -> Program | None:
        connection, _ = self._listener.accept()
        self._used_at = time.monotonic()
        try:
            _, output, _, _ = socket.recv_fds(connection, 1, 2)
            program = Program(**json.loads(connection.makefile().readline()))
        except (OSError, ValueError):  # the process that asked was killed meanwhile
            connection.close()
            return None
        if not _is_own(connection):
            raise PermissionError("another user asks for a worker")
        pid = os.fork()
        if pid == 0:
            self._leave(connection, output)
            return program
        for number in output:
            os.close(number)
        worker = Worker(pid, connection, os.pidfd_open(pid))
        with suppress(OSError):
            connection.sendall(FORKED)
        for file in (connection, worker.end):
            self._selector.register(file, selectors.EVENT_READ)
            self._workers[file if isinstance(file, int) else file.fileno()] = worker
        return None

    def _leave(self, connection: socket.socket, output: list[int]) -> None:
        """Turns this process, a new fork, from a server into a worker."""
        os.setsid()  # Ray ends a worker's whole process group
        for number, file in enumerate(output, start=1):
            os.dup2(file, number)
            os.close(file)
        self._selector.close()
        self._listener.close()
        os.close(self._raylet)
        connection.close()
        for worker in set(self._workers.values()):
            worker.asked_by.close()
            os.close(worker.end)

    def _forget(self, worker: Worker) -> None:
        """Lets the process that asked for a worker end, as the worker has."""
        os.waitpid(worker.pid, 0)
        self._used_at = time.monotonic()
        del self._workers[worker.end], self._workers[worker.asked_by.fileno()]
        self._selector.unregister(worker.end)
        with suppress(KeyError):  # it was killed before the worker
            self._selector.unregister(worker.asked_by)
        os.close(worker.end)
        worker.asked_by.close()


if __name__ == "__main__":
    main(sys.argv[1:])
