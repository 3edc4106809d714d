"""Actors that must live as long as the job that started them."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def actor_here(actor_class: type) -> Any:
    """`actor_class` as a remote class whose actors take no CPU and stay on this process's node: a node that is lost
    elsewhere does not take them along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here}
    return ray.remote(**options)(actor_class)
