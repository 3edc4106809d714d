"""Local nodes whose head can fail, and whose workers are forked."""

from collections.abc import Callable
from pathlib import Path

import psutil

from pipeline.runtime.local_cluster import LocalNodes, kill_tree
from tests.support.forked_workers import forked_workers


class RestartableNodes(LocalNodes):
    """`LocalNodes` with a head that can be killed and started again."""

    def __init__(self, folder: Path, num_nodes: int, environment: dict[str, str] | None = None) -> None:
        super().__init__(folder, num_nodes, (environment or {}) | {"PATH": forked_workers().path})

    def train_workers(self) -> list[psutil.Process]:
        return forked_workers().running("RayTrainWorker")

    def restart_head(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Kills the head with its state and every node, calls `meanwhile`, and starts new ones at the same address."""
        with self._changing:
            count, nodes, self.nodes = len(self.nodes), self.nodes, []
            kill_tree(*nodes, self.head)
            meanwhile()
            self.environment.pop("RAY_ADDRESS", None)
            self.head = self._start_head()
        for _ in range(count):
            self.add_node()
