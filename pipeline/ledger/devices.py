"""The devices that a Ray job holds, from Ray's own tables: its placement groups, and its actors outside of them.

Tasks appear in neither: a job that runs tasks reserves a placement group for them.
"""

from typing import Any

import ray

from pipeline.ledger.account import DevicesNow
from pipeline.runtime.ray_private import actor_shares, job_ended_ago_s
from pipeline.runtime.shares import placement_group_shares

UNKNOWN_MODEL = "unknown"
"""Model of a GPU whose node does not report one. The user is asked for it if it matters; it is never guessed."""


class HeldDevices:
    """Reads the devices of one kind, `GPU` or `CPU`, that a job holds.

    Args:
        kind: kind of device.
        job_id: hex id of the job.
    """

    def __init__(self, kind: str, job_id: str) -> None:
        self._kind, self._job_id = kind, job_id
        self._models: dict[str, str] = {}

    def now(self) -> DevicesNow:
        """Returns the devices that the job holds at this moment."""
        shares = [*placement_group_shares(self._job_id), *actor_shares(self._job_id)]
        nodes = [(share.node_id, share.resources.get(self._kind, 0.0)) for share in shares]
        devices = sum(count for _, count in nodes)
        if not devices:
            return DevicesNow(0, "", job_ended_ago_s(self._job_id))
        if self._kind == "CPU":
            return DevicesNow(devices, "CPU")
        models = {self._model_on(node) for node, count in nodes if count}
        return DevicesNow(devices, "+".join(sorted(models)))

    def _model_on(self, node_id: str) -> str:
        if node_id not in self._models:
            self._models |= {node["NodeID"]: _model_of(node) for node in ray.nodes()}
        return self._models.get(node_id, UNKNOWN_MODEL)


def _model_of(node: dict[str, Any]) -> str:
    kinds = [name.partition(":")[2] for name in node["Resources"] if name.startswith("accelerator_type:")]
    return "+".join(sorted(kinds)) or UNKNOWN_MODEL
