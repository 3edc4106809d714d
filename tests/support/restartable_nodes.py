"""Local nodes whose head can fail."""

from pipeline.runtime.local_cluster import LocalNodes, kill_tree


class RestartableNodes(LocalNodes):
    """`LocalNodes` with a head that can be killed and started again."""

    def restart_head(self) -> None:
        """Kills the head with its state and every node, and starts new ones at the same address."""
        with self._changing:
            count, nodes, self.nodes = len(self.nodes), self.nodes, []
            for process in [*nodes, self.head]:
                kill_tree(process)
            self.environment.pop("RAY_ADDRESS", None)
            self.head = self._start_head()
        for _ in range(count):
            self.add_node()
