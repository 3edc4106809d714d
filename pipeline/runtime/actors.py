"""Placement of a job's actors. Their own processes import this module, so it imports little."""

from typing import Any, TypeVar

import ray
from ray.actor import ActorClass
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")


def actor_here(actor_class: type[T]) -> ActorClass[T]:
    """Returns `actor_class` as a remote class whose actors take no CPU and stay on this process's node, so that they
    survive the loss of any other node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here}
    return ray.remote(**options)(actor_class)
