"""Reservation of devices for tasks."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pipeline.runtime.shortage import check_obtainable

WAIT_S = 60.0
"""Seconds that one call of Ray waits for devices."""


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
