"""The number of workers that fit into the cluster now, and requests for more nodes."""

import ray
from ray.autoscaler.sdk import request_resources

from pipeline.runtime.ray_private import draining_nodes, free_resources
from tokenization.config.node_labels import NodeNeeds


def workers_that_fit(needs: NodeNeeds, most: int) -> int:
    """Returns the number of workers that fit, at most `most`. Nodes that are about to be taken away do not count."""
    leaving, free = draining_nodes(), free_resources()
    labels = {node["NodeID"]: node["Labels"] for node in ray.nodes() if node["Alive"]}
    return min(sum(needs.count_on(free[node], labels[node]) for node in labels if node in free.keys() - leaving), most)


def request_nodes(needs: NodeNeeds, count: int) -> None:
    """Asks the cluster's autoscaler, if there is one, for nodes with room for so many workers in all, in place of what
    was asked for last."""
    request_resources(
        bundles=[dict(needs.resources)] * count, bundle_label_selectors=[dict(needs.label_selector)] * count
    )
