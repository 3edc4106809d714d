"""A Ray cluster of several nodes on this machine whose nodes can be killed, for tests of fault tolerance."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.runtime.cluster_watch import answers
from pipeline.runtime.fork_server import SERVE

QUICK_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""Settings with which Ray declares a node lost within seconds. Ray's defaults wait longer, for real networks."""
START_TIMEOUT_S = 120.0
SOCKET_TIMEOUT_S = 20.0
"""Seconds to wait for a node's sockets before the next node starts."""


class LocalNodes:
    """A head without CPUs for workers, and nodes of one CPU each, which no job outside finds by itself. If a node fails
    to start, as can happen on a busy machine, it is started again.

    Args:
        folder: folder for the nodes' logs.
        num_nodes: number of nodes in addition to the head.
        environment: additional environment variables of all Ray processes.

    Attributes:
        nodes: the nodes that were not killed.
        environment: environment for commands that use the cluster.
        port, dashboard: ports of the head and of its dashboard.
    """

    def __init__(self, folder: Path, num_nodes: int, environment: dict[str, str] | None = None) -> None:
        self._folder, self._started, self._changing, self._ended = folder, 0, threading.Lock(), threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        # Jobs outside look for a cluster in Ray's usual folder. The path is short, since sockets lie in it.
        self._ray_folder = tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True)
        self.environment = os.environ | QUICK_TO_NOTICE | {"PATH": path, "RAY_TMPDIR": self._ray_folder.name}
        self.environment |= environment or {}
        # A token in the user's home would enable authentication for Ray's servers, but not for its clients.
        self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            self.environment.pop(name, None)
        self.port, self.dashboard = free_port(), free_port()
        self.head = self._start_head()
        self.nodes: list[psutil.Process] = []
        self._started_as: dict[int, tuple[dict[str, str], dict[str, str]]] = {}
        """Environment and labels of each node, by the pid that started it. A node that failed is started with them."""
        for _ in range(num_nodes):
            self.add_node()
        self._keeper = threading.Thread(target=self._keep, name="keeps nodes", daemon=True)
        self._keeper.start()

    def _start_head(self) -> psutil.Process:
        words = ["--head", f"--port={self.port}", "--num-cpus=0", "--dashboard-host=127.0.0.1"]
        words += ["--include-log-monitor=False"]  # no job on it shows its workers' output
        head = self._start(self.environment, *words)
        self.environment["RAY_ADDRESS"] = f"127.0.0.1:{self.port}"
        deadline = time.monotonic() + START_TIMEOUT_S
        address = f"127.0.0.1:{self.port}"
        check = ["ray", "health-check", f"--address={address}"]  # takes seconds of CPU
        while not answers(address) or subprocess.run(check, env=self.environment, capture_output=True).returncode:
            if time.monotonic() > deadline or not head.is_running():
                raise RuntimeError(f"Ray's head did not start; see {self._folder}")
            time.sleep(0.5)
        return head

    def add_node(self, labels: dict[str, str] | None = None) -> None:
        """Starts one more node with these node labels, without waiting until it has joined."""
        with self._changing:
            self.nodes.append(self._start_node(self.environment.copy(), labels or {}))

    def kill_node(self, number: int) -> int:
        """Sends SIGKILL to all processes of a node and removes it from `nodes`. Returns the pid that started it."""
        with self._changing:
            node = self.nodes.pop(number)
        kill_tree(node)
        return int(node.pid)

    def train_workers(self) -> list[psutil.Process]:
        """The training processes on all nodes."""
        found = [process for node in list(self.nodes) for process in tree_of(node)]
        return [process for process in found if "RayTrainWorker" in words_of(process)]

    def stop(self) -> None:
        self._ended.set()
        self._keeper.join()
        kill_tree(*self.nodes, self.head)
        self.nodes = []
        self._ray_folder.cleanup()

    def _keep(self) -> None:
        while not self._ended.wait(1.0):
            with self._changing:
                self.nodes = [
                    node if _is_alive(node) else self._start_node(*self._started_as[node.pid]) for node in self.nodes
                ]

    def _start_node(self, environment: dict[str, str], labels: dict[str, str]) -> psutil.Process:
        """Starts a node, and waits until its raylet listens.

        Two raylets that start at once give their sockets the same name, and the later one dies. Its `ray start` notices
        that after 30 s.
        """
        before, deadline = self._sockets(), time.monotonic() + SOCKET_TIMEOUT_S
        words = [f"--address=127.0.0.1:{self.port}", "--num-cpus=1", "--include-log-monitor=False"]
        words += ["--labels=" + ",".join(f"{key}={value}" for key, value in labels.items())] if labels else []
        node = self._start(environment, *words)
        self._started_as[node.pid] = (environment, labels)
        while self._sockets() == before and _is_alive(node) and time.monotonic() < deadline:
            time.sleep(0.05)
        return node

    def _sockets(self) -> set[Path]:
        return set(Path(self._ray_folder.name).glob("ray/session_*/sockets/raylet*"))

    def _start(self, environment: dict[str, str], *words: str) -> psutil.Process:
        self._started += 1
        # With another cluster on this machine, the agents' fixed ports would be in use.
        agent = [f"--dashboard-agent-listen-port={free_port()}"]
        if "--head" in words:
            agent += [f"--dashboard-port={self.dashboard}"]
        with (self._folder / f"node-{self._started}.log").open("w") as log:
            command = ["ray", "start", "--block", "--disable-usage-stats", *words, *agent]
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self._folder
            )
        return psutil.Process(process.pid)


def _is_alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def kill_tree(*processes: psutil.Process) -> None:
    """Sends SIGKILL to processes and all their descendants at once, and waits for their end."""
    tree = [each for process in processes for each in tree_of(process)]
    for each in tree:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGKILL)
    psutil.wait_procs(tree, timeout=30)


def tree_of(process: psutil.Process) -> list[psutil.Process]:
    """A process and all its descendants, those of fork servers of its raylet included."""
    with suppress(psutil.NoSuchProcess):
        tree = [process, *process.children(recursive=True)]
        raylets = {str(each.pid) for each in tree}
        for server in psutil.process_iter(["cmdline"]):
            words = server.info["cmdline"] or []
            if SERVE in words and words[-1] in raylets and server not in tree:
                tree += [server, *server.children(recursive=True)]
        return tree
    return []


def words_of(process: psutil.Process) -> str:
    """The process's command line; empty if the process has ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def free_port() -> int:
    """Returns a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
