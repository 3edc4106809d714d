"""What a Ray job holds, from Ray's own tables: its placement groups and its actors outside of them.

Tasks are in neither: a job that runs tasks reserves a placement group for them. Ray has no public interface that tells
one job's share and works without its dashboard; the private one is used here alone.
"""

import time
from typing import Any

import ray
from ray.core.generated import gcs_pb2

from pipeline.ledger.account import Held
from pipeline.runtime.ray_private import _accessor

UNKNOWN_MODEL = "unknown"
"""Of a GPU whose node does not say: asked for where it matters, never guessed."""
HOLDING_ACTORS = ("ALIVE", "PENDING_CREATION")
"""The latter load their models."""
HOLDING = (gcs_pb2.PlacementGroupTableData.CREATED, gcs_pb2.PlacementGroupTableData.RESCHEDULING)


class HeldDevices:
    """Devices of one kind, `GPU` or `CPU`, that a job holds.

    Args:
        kind: of the devices.
        job_id: in hex.
    """

    def __init__(self, kind: str, job_id: str) -> None:
        self._kind, self._job_id = kind, ray.JobID(bytes.fromhex(job_id))
        self._models: dict[str, str] = {}

    def now(self) -> Held:
        """What it holds at this moment."""
        nodes = [*self._in_placement_groups(), *self._of_actors()]
        devices = sum(count for _, count in nodes)
        if not devices:
            return Held(0, "", self._job_ended_ago_s())
        if self._kind == "CPU":
            return Held(devices, "CPU")
        models = {self._model_on(node) for node, count in nodes if count}
        return Held(devices, "+".join(sorted(models)))

    def _job_ended_ago_s(self) -> float | None:
        """Since the job's driver ended, in whatever way, as Ray's head has noticed it; None while it lives."""
        for content in _accessor().get_job_table(skip_submission_job_info_field=True, skip_is_running_tasks_field=True):
            job = gcs_pb2.JobTableData.FromString(content)
            if job.job_id == self._job_id.binary():
                return max(0.0, time.time() - job.end_time / 1000) if job.is_dead else None
        return 0.0  # so long ago that Ray has forgotten it

    def _in_placement_groups(self) -> list[tuple[str, float]]:
        found = []
        for content in _accessor().get_placement_group_table():
            group = gcs_pb2.PlacementGroupTableData.FromString(content)
            if group.creator_job_id == self._job_id.binary() and group.state in HOLDING:
                found += [
                    (bundle.node_id.hex(), bundle.unit_resources.get(self._kind, 0.0))
                    for bundle in group.bundles
                    if bundle.node_id.strip(b"\xff")  # else it is placed nowhere
                ]
        return found

    def _of_actors(self) -> list[tuple[str, float]]:
        found = []
        contents = [content for name in HOLDING_ACTORS for content in _accessor().get_actor_table(self._job_id, name)]
        for content in contents:
            actor = gcs_pb2.ActorTableData.FromString(content)
            has_process = actor.address.worker_id.strip(b"\xff")  # else it waits for devices
            if has_process and not actor.placement_group_id.strip(b"\xff"):
                found.append((actor.address.node_id.hex(), actor.required_resources.get(self._kind, 0.0)))
        return found

    def _model_on(self, node_id: str) -> str:
        if node_id not in self._models:
            self._models |= {node["NodeID"]: _model_of(node) for node in ray.nodes()}
        return self._models.get(node_id, UNKNOWN_MODEL)


def _model_of(node: dict[str, Any]) -> str:
    kinds = [name.partition(":")[2] for name in node["Resources"] if name.startswith("accelerator_type:")]
    return "+".join(sorted(kinds)) or UNKNOWN_MODEL
