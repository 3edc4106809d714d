"""Everything of Ray's autoscaler that is not public; written against Ray 2.60.0. No other module names any of it.

Each function says what it is used for. `tests/pipeline/runtime/test_ray_private.py` has a test for each name. Imports
are inside the functions, so that a job loads only the parts of Ray that it uses.
"""

import copy
import json
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
import yaml

CONFIG_FLAG = "--autoscaling-config="
"""The flag of an autoscaler's process that names its file."""


class StartableType(Protocol):
    """A node type that the autoscaler may start: see `cluster.cluster_file.NodeType`."""

    @property
    def name(self) -> str:
        """Its key in the cluster file."""

    @property
    def resources(self) -> dict[str, float]:
        """Resources of one node, by Ray's names."""

    @property
    def min_workers(self) -> int:
        """Minimum number of running nodes."""

    @property
    def max_workers(self) -> int:
        """Maximum number of running nodes."""

    @property
    def priority(self) -> int:
        """Among types that suit equally well, the highest priority is started first."""


def autoscaler_may_add_nodes() -> bool:
    """False if the cluster has no autoscaler, as its head reports soon. Used to refuse what it can never give."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    report = (json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}").get("autoscaler_report")) or {}
    nodes = report.get("active_nodes") or {}
    # Without an autoscaler each node is reported as a type of its own, named by its id.
    return not nodes or not all(re.fullmatch("node_[0-9a-f]{56}", name) for name in nodes)


def node_types_of_autoscaler(gcs_address: str) -> list[dict[str, float]] | None:
    """Resources, by Ray's names, of one node of each type that the cluster's autoscaler may start; None if that is not
    known. Used to refuse what it can never give.

    Ray does not tell it. It is in the file of the autoscaler's process, which runs on the head, as submitted jobs do.
    """
    port = gcs_address.rpartition(":")[2]
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        files = [word.removeprefix(CONFIG_FLAG) for word in words if word.startswith(CONFIG_FLAG)]
        if not files or not any(re.fullmatch(f"--gcs-address=.*:{port}", word) for word in words):
            continue
        try:
            config = yaml.safe_load(Path(files[0]).expanduser().read_text())
            types = [kind for kind in config["available_node_types"].values() if kind.get("max_workers", 1)]
        except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError):
            return None
        # A type without resources has those that its machines turn out to have.
        found = [{name: float(amount) for name, amount in (kind.get("resources") or {}).items()} for kind in types]
        return found if found and all(found) else None
    return None


def infeasible_requests() -> list[dict[str, float]]:
    """Resources, by Ray's names, of each request for which the cluster's autoscaler cannot start a node now. Used to
    say so while a job waits. Ray's first autoscaler reports none."""
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    reply = GetClusterStatusReply.FromString(internal_kv_get_gcs_client().get_cluster_status())
    state = reply.autoscaling_state
    gangs = state.infeasible_gang_resource_requests
    together = [request for gang in gangs for request in gang.requests]
    together += [request for gang in gangs for part in gang.bundle_selectors for request in part.resource_requests]
    return [dict(request.resources_bundle) for request in [*state.infeasible_resource_requests, *together]]


def complete_cluster_config(content: dict[str, Any]) -> dict[str, Any]:
    """Completes the content of a file for `ray up` with Ray's defaults, and checks it as `ray up` does. Used to check
    cluster files.

    Raises:
        ValueError, KeyError, RuntimeError, jsonschema.ValidationError: Ray refuses it.
    """
    from ray.autoscaler._private.providers import _get_default_config
    from ray.autoscaler._private.util import prepare_config, validate_config

    _get_default_config(content["provider"])  # raises if there is no such provider
    config: dict[str, Any] = prepare_config(copy.deepcopy(content))
    validate_config(config)
    return config


def cluster_config_of_manifest(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the checked config that the autoscaler derives from a RayCluster manifest. Used to check manifests for
    KubeRay.

    Raises:
        ValueError, KeyError, RuntimeError, jsonschema.ValidationError: Ray refuses it.
    """
    from ray.autoscaler._private.kuberay import autoscaling_config
    from ray.autoscaler._private.util import validate_config

    quiet = logging.getLogger(autoscaling_config.__name__)
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        config: dict[str, Any] = autoscaling_config._derive_autoscaling_config_from_ray_cr(content)
    finally:
        quiet.setLevel(level)
    validate_config(config)
    return config


def nodes_to_start(
    types: Iterable[StartableType],
    max_nodes: int,
    single: Sequence[dict[str, float]],
    gangs: Sequence[Sequence[dict[str, float]]],
) -> tuple[dict[str, int], bool]:
    """Returns the nodes that the autoscaler starts for resource requests when only the head runs, and True if they meet
    all requests. Used to tell before a job starts what it will cost, or that it can never run.

    Args:
        types: node types that may be started.
        max_nodes: maximum number of nodes in addition to the head.
        single: requests that are met one by one.
        gangs: groups of requests that are met all together or not at all, like those of a placement group.
    """
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest

    configs = {
        kind.name: NodeTypeConfig(
            kind.name, kind.min_workers, kind.max_workers, priority=kind.priority, resources=kind.resources
        )
        for kind in types
    }
    requests = [ResourceRequestUtil.make(resources) for resources in single]
    gang_requests = [
        GangResourceRequest(requests=[ResourceRequestUtil.make(resources) for resources in gang]) for gang in gangs
    ]
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=configs,
            max_num_nodes=max_nodes,
            resource_requests=ResourceRequestUtil.group_by_count(requests),
            gang_resource_requests=gang_requests,
        )
    )
    unmet = reply.infeasible_gang_resource_requests or reply.infeasible_resource_requests
    return {launch.instance_type: launch.count for launch in reply.to_launch}, not unmet
