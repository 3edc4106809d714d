"""Reservation of devices for tasks."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pipeline.runtime.shortage import check_obtainable
from tokenization.config.node_labels import NodeNeeds

logger = logging.getLogger(__name__)
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
    check_obtainable([NodeNeeds(bundle) for bundle in bundles], "let it run on another cluster, or ask for fewer")
    group = placement_group(bundles)
    try:
        while not group.wait(timeout_seconds=WAIT_S):
            continue
        yield PlacementGroupSchedulingStrategy(group)
    finally:
        remove_placement_group(group)


@contextmanager
def removing_what_a_failure_leaves() -> Iterator[None]:
    """Removes the placement groups that this job made inside and still has, if it ends in an error.

    A worker that dies between its start and the start of its loop ends Ray Train's controller before the controller
    knows its worker group. The group's resources would stay taken until the job ends: Ray frees them with the job, not
    with the actor that asked for them.
    """
    before = _groups_of_job()
    try:
        yield
    except Exception:
        try:
            for left in _groups_of_job() - before:
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(left))))
        except Exception as error:  # of many kinds where the cluster is gone; the failure itself says why
            logger.warning("%s; placement groups of this job may be left", error)
        raise


def _groups_of_job() -> set[str]:
    """Ids of this job's placement groups that hold or await resources. A group's id ends with its job's."""
    job = ray.get_runtime_context().get_job_id()
    table = placement_group_table().items()
    return {group for group, row in table if group.endswith(job) and row["state"] != "REMOVED"}
