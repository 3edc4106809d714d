"""Placement of actors, and reservation of devices for tasks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.actor import ActorClass
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from pipeline.runtime.terminal import say as say
from pipeline.runtime.terminal import say_error as say_error

T = TypeVar("T")


def actor_here(actor_class: type[T]) -> ActorClass[T]:
    """Returns `actor_class` as a remote class whose actors take no CPU and stay on this process's node, so that they
    survive the loss of any other node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here}
    return ray.remote(**options)(actor_class)


RESERVE_S = 60.0
"""Seconds between two lines about devices that a job waits for."""


@contextmanager
def reserved(cpus: int, gpus: int = 0, together: bool = False) -> Iterator[PlacementGroupSchedulingStrategy]:
    """Reserves devices for tasks, so that the ledger counts them. Yields the tasks' `scheduling_strategy`.

    Args:
        cpus, gpus: total number of devices; fewer CPUs if the cluster has fewer.
        together: True for one task that takes all devices; False for tasks of one CPU each.
    """
    total = int(ray.cluster_resources().get("CPU", 1))
    gpu = {"GPU": float(gpus)} if gpus else {}
    bundles = [{"CPU": float(cpus)} | gpu] if together else [{"CPU": 1.0} | gpu] * max(1, min(cpus, total))
    group = placement_group(bundles)
    try:
        while not group.wait(timeout_seconds=RESERVE_S):
            say(f"waiting for {cpus} CPUs{f' and {gpus} GPUs' if gpus else ''}; `ray status` shows who has them")
        yield PlacementGroupSchedulingStrategy(group)
    finally:
        remove_placement_group(group)


def say_shortage(num_cpus: float, num_gpus: float) -> None:
    """Prints a line if the cluster does not have these devices free now, so that workers will wait."""
    free = ray.available_resources()
    for kind, wanted in (("CPU", num_cpus), ("GPU", num_gpus)):
        if free.get(kind, 0) < wanted:
            say(f"waiting for {wanted:g} {kind}s, {free.get(kind, 0):g} are free; `ray status` shows who has them")
