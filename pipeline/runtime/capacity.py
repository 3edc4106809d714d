"""How many workers the cluster can hold now."""

from pipeline.runtime.ray_private import draining_nodes, free_resources


def workers_that_fit(worker_resources: dict[str, float], most: int) -> int:
    """Workers for which there is room, at most `most`; none on a node that is about to be taken away."""
    leaving, fit = draining_nodes(), 0
    for node, free in free_resources().items():
        if node not in leaving:
            fit += int(min(free.get(name, 0.0) // amount for name, amount in worker_resources.items()))
    return min(fit, most)
