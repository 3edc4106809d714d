"""Runs a file for `ray up` on one machine, with Ray's fake provider, whose nodes are raylets on the same host.

Only the provider, its credentials and its installation commands are replaced. Node types, their resources, bounds and
priorities are the file's own, and so is the autoscaler that acts on them.
"""

import copy
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.cluster_file import read_cluster_file
from tests.support.checkout import CHECKOUT
from tests.support.ports import free_port, wait_for_jobs_api

HEAD_ID = "f" * 51 + "00000"
HEAD_TYPE = "ray.head.default"
STORE_BYTES = 78_643_200
"""The smallest object store that Ray takes: a fake node has no memory of its own."""
TOKEN = "0123456789abcdef0123456789abcdef"
EXCHANGED = {
    "auth": {"ssh_user": "nobody"},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    "head_node_type": HEAD_TYPE,
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}


def on_this_machine(
    path: Path, gcs_address: str, offers: Path, idle_s: float, resources: dict[str, int] | None = None
) -> dict[str, Any]:
    """Returns the configuration of the file's cluster with fake nodes.

    Args:
        path: the cluster file.
        gcs_address: address of the head.
        offers: file with the nodes that `MarketProvider` offers.
        idle_s: seconds after which an idle node is removed, instead of the file's minutes.
        resources: resources of nodes whose file leaves them to the machine.
    """
    real = read_cluster_file(str(path)).config
    config = copy.deepcopy(real) | EXCHANGED | {"idle_timeout_minutes": idle_s / 60}
    config["provider"] = {
        # Ray's own name for its fake provider needs a file that its wheel lacks.
        "type": "external",
        "module": "tests.support.market_provider.MarketProvider",
        "offers": str(offers),
        "gcs_address": gcs_address,
        "launch_multiple": True,
        "head_node_id": HEAD_ID,
        "disable_node_updaters": True,  # nothing is installed on a node that is a process
    }
    head = real["head_node_type"]
    types = {
        name: {key: value for key, value in entry.items() if key != "docker"} | {"node_config": {}}
        for name, entry in real["available_node_types"].items()
    }
    for entry in types.values():
        entry["resources"] = (entry["resources"] or resources or {}) | {"object_store_memory": STORE_BYTES}
    no_work = {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0}
    if real["provider"]["type"] != "local":
        del types[head]
    config["available_node_types"] = types | {HEAD_TYPE: no_work}
    return config


class FakeCluster:
    """`ray start --head` with the autoscaler of a cluster file, token authentication and the dashboard on loopback."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        idle_s: float = 5,
        resources: dict[str, int] | None = None,
        checkout: Path = CHECKOUT,
    ) -> None:
        port, dashboard = free_port(), free_port()
        self.address, self.checkout = f"127.0.0.1:{port}", checkout
        self.log = folder / "ray.log"
        file, self._offers = folder / "autoscaler.json", folder / "offers.json"
        self.offer()
        file.write_text(json.dumps(on_this_machine(path, self.address, self._offers, idle_s, resources)))
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(checkout),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            "RAY_NODE_TYPE_NAME": HEAD_TYPE,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        words = ["ray", "start", "--head", "--block", "--num-cpus=0", "--num-gpus=0", f"--port={port}"]
        words += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--disable-usage-stats"]
        words.append("--include-log-monitor=False")
        words += [f"--dashboard-agent-listen-port={free_port()}", f"--autoscaling-config={file}"]
        words += [f"--object-store-memory={STORE_BYTES}"]
        self._head = subprocess.Popen(
            words,
            cwd=checkout,
            env=self.environment,
            start_new_session=True,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )
        # A driver is not a node.
        for name in ("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING", "RAY_NODE_TYPE_NAME"):
            del self.environment[name]
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self.environment |= {"RAY_ADDRESS": self.address, "RAY_API_SERVER_ADDRESS": self.dashboard}
        wait_for_jobs_api(dashboard, TOKEN, time.monotonic() + 90)

    def type(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess:
        return subprocess.run(
            words, cwd=self.checkout, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def drive(self, script: str, *words: str, timeout: float = 600) -> Any:
        """Returns the JSON that a driver prints on its last line."""
        done = self.type(sys.executable, "-P", "-c", script, *words, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def offer(self, **nodes: int) -> None:
        """Limits the number of nodes of some types that the provider starts from now on."""
        written = self._offers.with_suffix(".new")
        written.write_text(json.dumps(nodes))
        written.replace(self._offers)

    def take_away(self, node_type: str) -> None:
        """Kills one node of a type and everything that runs on it."""
        raylet = next(
            process
            for process in psutil.process_iter(["name", "environ"])
            if process.info["name"] == "raylet"
            and (process.info["environ"] or {}).get("RAY_NODE_TYPE_NAME") == node_type
        )
        for process in [raylet, *raylet.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def stop(self) -> None:
        """Stops the head and all nodes, which are its children or were started by them."""
        mine = [
            process
            for process in psutil.process_iter(["cmdline", "environ"])
            if f"--gcs-address={self.address}" in (process.info["cmdline"] or ())
            or (process.info["environ"] or {}).get("RAY_ADDRESS") == self.address
        ]
        processes = [self._head, *psutil.Process(self._head.pid).children(recursive=True), *mine]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._head.wait(timeout=60)
