"""Actors that must live as long as the job that started them."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster_room import draining_nodes


def actor_here(actor_class: type) -> Any:
    """`actor_class` as a remote class whose actors take no CPU and stay on this process's node: a node that is lost
    elsewhere does not take them along. A node that is about to be taken away gets no actors; they go to another."""
    node = ray.get_runtime_context().get_node_id()
    stays = node not in draining_nodes()
    where = NodeAffinitySchedulingStrategy(node, soft=False) if stays else "DEFAULT"
    options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": where}
    return ray.remote(**options)(actor_class)
