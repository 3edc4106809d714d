"""Workers that are forked equal those that start as a new Python, and none outlives what asked for it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipeline.runtime import fork_server
from pipeline.runtime.fork_server import RAYLET, SERVE

IMPORTS = """
def importing_libraries():
    import fractions
    if {fails}:
        raise RuntimeError("a library opens the GPU")
    yield
"""
PROGRAM = """
import json, os, sys, time
print(json.dumps({
    "words": sys.argv, "path": sys.path[0], "folder": os.getcwd(), "own": os.environ.get("OWN"),
    "forked": "fractions" in sys.modules, "project": "pipeline" in sys.modules, "pid": os.getpid(),
    "leads": os.getpgrp() == os.getpid(),
}), flush=True)
time.sleep(float(sys.argv[1]))
"""


class Node:
    """A folder with the fork server and a program, and a process in the place of the raylet."""

    def __init__(self, folder: Path) -> None:
        self.server_file = folder / "checkout" / "pipeline" / "runtime" / "fork_server.py"
        self.server_file.parent.mkdir(parents=True)
        for package in (self.server_file.parent, self.server_file.parent.parent):
            (package / "__init__.py").touch()
        shutil.copy(fork_server.__file__, self.server_file)
        self.library(fails=False)
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)
        self.raylet = subprocess.Popen(["sleep", "60"])

    def library(self, fails: bool) -> None:
        """Sets what the server imports."""
        (self.server_file.parent / "fork_imports.py").write_text(IMPORTS.format(fails=fails))

    def start(self, seconds: float, **environment: str) -> subprocess.Popen:
        words = [sys.executable, "-I", "-S", str(self.server_file), str(self.program), str(seconds)]
        inherited = os.environ | {RAYLET: str(self.raylet.pid)} | environment
        return subprocess.Popen(words, env=inherited, stdout=subprocess.PIPE, text=True, cwd=self.program.parent)

    def servers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if SERVE in words and str(self.server_file) in words:
                found.append(process)
        return found

    def stop(self) -> None:
        self.raylet.kill()
        self.raylet.wait()
        for server in self.servers():
            with suppress(psutil.NoSuchProcess):
                server.kill()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.stop()


def said_by(process: subprocess.Popen) -> dict:
    assert process.stdout is not None
    said: dict = json.loads(process.stdout.readline())
    return said


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_forked_worker_has_the_libraries_and_is_otherwise_the_program_that_was_asked_for(node: Node) -> None:
    said_by(first := node.start(0))
    assert first.wait(timeout=10) == 0
    (server,) = node.servers()
    said = said_by(second := node.start(0, RAY_OWN="1", OWN=""))
    assert second.wait(timeout=10) == 0
    assert len(node.servers()) == 2, "another environment, which libraries may have read, has another server"
    said = said_by(third := node.start(0, RAY_JOB_ID="2"))
    assert third.wait(timeout=10) == 0 and len(node.servers()) == 2
    assert said.pop("pid") not in (third.pid, server.pid)
    folder = str(node.program.parent)
    assert said == {
        "words": [str(node.program), "0"],
        "path": folder,
        "folder": folder,
        "own": None,
        "forked": True,
        "project": False,
        "leads": True,
    }


def test_without_a_server_the_program_runs_as_an_ordinary_python(node: Node) -> None:
    node.library(fails=True)
    assert said_by(node.start(0, **{RAYLET: ""}))["forked"] is False
    assert said_by(node.start(0))["forked"] is False, "its server could not start"


def test_a_worker_ends_with_the_process_that_asked_for_it(node: Node) -> None:
    asking = node.start(60)
    worker = said_by(asking)["pid"]
    asking.send_signal(signal.SIGKILL)
    until(lambda: not psutil.pid_exists(worker))
    assert asking.wait(timeout=10) == -signal.SIGKILL
    asking = node.start(60)
    os.kill(said_by(asking)["pid"], signal.SIGKILL)
    assert asking.wait(timeout=10) == 0, "and that process with the worker"


@pytest.mark.slow
def test_server_and_workers_end_with_their_raylet(node: Node) -> None:
    asking = [node.start(60), node.start(60)]
    workers = [said_by(each)["pid"] for each in asking]
    node.raylet.kill()
    node.raylet.wait()
    until(lambda: not node.servers())
    until(lambda: not any(psutil.pid_exists(worker) for worker in workers))
    assert [each.wait(timeout=10) for each in asking] == [0, 0]


def test_a_node_without_the_file_or_the_python_runs_what_it_has(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "__file__", "/nowhere/fork server.py")
    words = f"exec {fork_server.forked_python()} -c 'print(6 * 7)'"  # as Ray runs it
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"
