"""Everything of Ray that is not public, but for its start and its autoscaler; written against Ray 2.60.0. No other
module names any of it.

Ray has no public interface that does these things and works without its dashboard. Each function says what it is used
for. `tests/pipeline/runtime/test_ray_private.py` has a test for each name, which fails if Ray moves or removes it.
Imports are inside the functions, so that a job loads only the parts of Ray that it uses.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline.runtime.shares import Share, placement_group_shares
from tokenization.config.node_labels import NodeNeeds

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient
    from ray.serve import Deployment

UNPLACED = b"\xff"
"""The byte that fills an unset id in Ray."""
HOLDING_ACTORS = ("ALIVE", "PENDING_CREATION", "RESTARTING")
"""States of actors that hold resources. An actor that is pending creation or restarting starts its process and loads
its model, or still waits for its resources."""
NODE_ID_LABEL = "ray.io/node-id"
STORAGE_NOTE = b"usage_stats", b"extra_usage_tag_gcs_storage"
"""Namespace and key of the head's note on where it keeps its state: one of Ray's usage statistics, sent or not."""


@dataclass(frozen=True)
class Request:
    """What a job waits for a node with, and what it is for."""

    whom: str
    needs: NodeNeeds


def read_cluster_address() -> str | None:
    """Returns `host:port` of the cluster that was last started on this machine, or None, also if another user's may not
    be read. Used by jobs to join it only if it still answers: `ray.init("auto")` waits for minutes for a dead one."""
    from ray._private.utils import read_ray_address

    try:
        return read_ray_address() or None
    except PermissionError:
        return None


def hide_data_progress() -> None:
    """Keeps Ray Data from saying in each job that its progress bars are off. Used by jobs, which turn them off: that is
    public, but brings the line, and a level of Ray Data's public logger that hides it would hide warnings, too."""
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def draining_nodes() -> set[str]:
    """Ids of the nodes that are about to be taken away. Used to place no workers on them."""
    from ray._private.state import state

    return set(state.get_draining_nodes() or {})


def free_resources() -> dict[str, dict[str, float]]:
    """Free resources of each live node, by node id. Used to count the workers that fit on each node:
    `ray.available_resources` has only the sum."""
    from ray._private.state import available_resources_per_node

    free: dict[str, dict[str, float]] = available_resources_per_node()
    return free


def job_ended_ago_s(job_id: str) -> float | None:
    """Seconds since the job's driver ended for any reason, as Ray's head has it; None while it lives, 0 if Ray knows no
    such job any more. Used by the ledger, which counts a job's resources until the job ends."""
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    table = state._connect_and_get_accessor().get_job_table(
        skip_submission_job_info_field=True, skip_is_running_tasks_field=True
    )
    for content in table:
        job = gcs_pb2.JobTableData.FromString(content)
        if job.job_id == bytes.fromhex(job_id):
            return max(0.0, time.time() - job.end_time / 1000) if job.is_dead else None
    return 0.0


def actor_shares(job_id: str) -> list[Share]:
    """Resources that a job's actors hold outside of placement groups. Used by the ledger.

    An actor whose process starts holds resources already, but Ray's tables do not say where, nor if it still waits for
    them. Such an actor counts if a node's resources are neither free nor held by anything else.
    """
    running, starting = _actors(job_id)
    if not starting:
        return running
    unexplained = _taken_on_nodes()
    for share in [*placement_group_shares(None), *_actors(None)[0]]:
        _subtract(unexplained.get(share.node_id, {}), share.resources)
    for needed in starting:
        fits = (node for node, left in unexplained.items() if all(left.get(name, 0) >= needed[name] for name in needed))
        if node := next(fits, None):
            _subtract(unexplained[node], needed)
            running.append(Share(node, needed))
    return running


def _actors(job_id: str | None) -> tuple[list[Share], list[dict[str, float]]]:
    """Actors of a job, or with None of all, outside of placement groups: what those with a process hold, and what each
    of the others needs."""
    import ray
    from ray._private.state import state

    accessor, running, starting = state._connect_and_get_accessor(), [], []
    job = ray.JobID(bytes.fromhex(job_id)) if job_id else None
    for content in [content for name in HOLDING_ACTORS for content in accessor.get_actor_table(job, name)]:
        node_id, needed = _actor(content)
        if node_id:
            running.append(Share(node_id, needed))
        elif needed:
            starting.append(needed)
    return running, starting


@lru_cache(4096)
def _actor(content: bytes) -> tuple[str, dict[str, float]]:
    """The node of an actor's process, if it has one, and what it needs; nothing for one in a placement group. It is
    asked for every second, and of an actor seldom anything has changed."""
    from ray.core.generated import gcs_pb2

    actor = gcs_pb2.ActorTableData.FromString(content)
    if actor.placement_group_id.strip(UNPLACED):
        return "", {}
    node_id = actor.address.node_id.hex() if actor.address.worker_id.strip(UNPLACED) else ""
    return node_id, dict(actor.required_resources)


def _taken_on_nodes() -> dict[str, dict[str, float]]:
    """Resources of each live node that are not free; Ray counts in steps of 0.0001."""
    import ray

    free = free_resources()
    totals = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    return {
        node: {name: round(total - free[node].get(name, 0.0), 4) for name, total in resources.items()}
        for node, resources in totals.items()
        if node in free
    }


def _subtract(resources: dict[str, float], less: dict[str, float]) -> None:
    for name, amount in less.items():
        resources[name] = round(resources.get(name, 0.0) - amount, 4)


def pending_requests(job_id: str) -> list[Request]:
    """Bundles on no node, and actors of classes of which none runs. Used to say what is awaited."""
    import ray
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    waiting = (gcs_pb2.PlacementGroupTableData.PENDING, gcs_pb2.PlacementGroupTableData.RESCHEDULING)
    accessor, job, found = state._connect_and_get_accessor(), ray.JobID(bytes.fromhex(job_id)), []
    for content in accessor.get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(content)
        if group.creator_job_id == bytes.fromhex(job_id) and group.state in waiting:
            unplaced = [bundle for bundle in group.bundles if not bundle.node_id.strip(UNPLACED)]
            found += [Request("workers", _needs(each.unit_resources, each.label_selector)) for each in unplaced]
    pending, alive = (
        [gcs_pb2.ActorTableData.FromString(each) for each in accessor.get_actor_table(job, name)]
        for name in ("PENDING_CREATION", "ALIVE")
    )
    running = {actor.class_name for actor in alive}
    for actor in pending:
        placed = actor.address.worker_id.strip(UNPLACED) or actor.placement_group_id.strip(UNPLACED)
        if not placed and actor.class_name not in running:
            found.append(Request(actor.class_name, _needs(actor.required_resources, actor.label_selector)))
    return found


def _needs(resources: Mapping[str, float], label_selector: Mapping[str, str]) -> NodeNeeds:
    """What is asked for, without the node by which Ray places actors of its own."""
    return NodeNeeds(dict(resources), {key: value for key, value in label_selector.items() if key != NODE_ID_LABEL})


def head_keeps_state() -> bool:
    """False if the head notes that its state is in memory alone. Used to tell if another head may go on with it."""
    from ray.experimental.internal_kv import _internal_kv_get

    return bool(_internal_kv_get(STORAGE_NOTE[1], namespace=STORAGE_NOTE[0]) != b"memory")


def announced_preemptions() -> list[str]:
    """Ids of this worker group's nodes that are about to be taken away. Used in a worker of Ray Train, which then asks
    all ranks to save and end. Does not block; the public `ray.train.get_preemption_info` is a barrier of all ranks."""
    from ray.train.v2._internal.execution.context import get_train_context

    notice = get_train_context().preemption_context.preemption_info
    return [] if notice is None else list(notice.preempted_node_ids)


def status_of_a_running_worker() -> object:
    """What a worker of Ray Train answers when its controller looks at it. Used to measure what that costs."""
    from ray.train.v2._internal.execution.worker_group.poll import WorkerStatus

    return WorkerStatus(running=True, error=None, training_report=None)


def leave_ctrl_c_alone(trainer: Any) -> None:
    """Keeps a trainer of Ray Train from handling Ctrl-C. Used for jobs, which write a checkpoint first; Ray Train's own
    handler ends the process without a word."""
    trainer._register_sigint_handler = lambda controller: None


def job_client(address: str, timeout_s: float) -> "JobSubmissionClient":
    """Returns a client of Ray's jobs whose requests time out after `timeout_s`. Used to follow a submitted job: Ray's
    own client waits forever on a dead connection. Requests to an `http://` address, which is a head's dashboard or a
    tunnel to it, use no proxy of the environment; those to `https://` do."""
    from ray.job_submission import JobSubmissionClient

    directly = {"http": "", "all": ""}  # an empty one is none, also if the environment names one
    usual = {"timeout": timeout_s} | ({"proxies": directly} if address.startswith("http://") else {})

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **how: Any) -> Any:
            return super()._do_request(method, endpoint, **(usual | how))

    return Client(address)


def kept_over_changes(deployment: "Deployment", version: str) -> "Deployment":
    """A Serve deployment whose replicas stay, and are reconfigured, when it is deployed again with another user_config.
    Used to take over a new checkpoint: Serve draws a new version for each deployment, and then stops the replicas
    first."""
    return deployment.options(_internal=True, version=version)
