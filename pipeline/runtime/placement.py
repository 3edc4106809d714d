"""Placement of actors, and reservation of devices for tasks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.actor import ActorClass
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from pipeline.runtime.shortage import check_obtainable

T = TypeVar("T")
WAIT_S = 60.0
"""Seconds that one call of Ray waits for devices."""


def actor_here(actor_class: type[T]) -> ActorClass[T]:
    """Returns `actor_class` as a remote class whose actors take no CPU and stay on this process's node, so that they
    survive the loss of any other node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here}
    return ray.remote(**options)(actor_class)


@contextmanager
def reserved(cpus: int, gpus: int = 0, together: bool = False) -> Iterator[PlacementGroupSchedulingStrategy]:
    """Reserves devices for tasks, so that the ledger counts them. Yields the tasks' `scheduling_strategy`.

    It waits until they are free; see `saying_what_is_awaited`.

    Args:
        cpus, gpus: total number of devices; fewer CPUs if the cluster has fewer.
        together: True for one task that takes all devices; False for tasks of one CPU each.
    """
    total = int(ray.cluster_resources().get("CPU", 1))
    gpu = {"GPU": float(gpus)} if gpus else {}
    bundles = [{"CPU": float(cpus)} | gpu] if together else [{"CPU": 1.0} | gpu] * max(1, min(cpus, total))
    check_obtainable(bundles, "let it run on another cluster, or ask for fewer")
    group = placement_group(bundles)
    try:
        while not group.wait(timeout_seconds=WAIT_S):
            continue
        yield PlacementGroupSchedulingStrategy(group)
    finally:
        remove_placement_group(group)
