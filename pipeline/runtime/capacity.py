"""The number of workers that fit into the cluster now."""

from pipeline.runtime.ray_private import draining_nodes, free_resources


def workers_that_fit(worker_resources: dict[str, float], most: int) -> int:
    """Returns the number of workers that fit, at most `most`. Nodes that are about to be taken away do not count."""
    leaving, fit = draining_nodes(), 0
    for node, free in free_resources().items():
        if node not in leaving:
            fit += int(min(free.get(name, 0.0) // amount for name, amount in worker_resources.items()))
    return min(fit, most)
