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

from tokenization.config.node_labels import NodeNeeds, conditions_of

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
    def labels(self) -> dict[str, str]:
        """Node labels that each node is known to have before it starts."""

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


def node_types_of_autoscaler(gcs_address: str) -> list[tuple[dict[str, float], dict[str, str]]] | None:
    """Resources, by Ray's names, and node labels of one node of each type that the cluster's autoscaler may start; None
    if that is not known. Used to refuse what it can never give.

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
        found = [
            ({name: float(amount) for name, amount in (kind.get("resources") or {}).items()}, kind.get("labels") or {})
            for kind in types
        ]
        return found if found and all(resources for resources, _ in found) else None
    return None


def infeasible_requests() -> list[NodeNeeds]:
    """The needs of each request for which the cluster's autoscaler cannot start a node now. Used to say so while a job
    waits. Ray's first autoscaler reports none."""
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    reply = GetClusterStatusReply.FromString(internal_kv_get_gcs_client().get_cluster_status())
    state = reply.autoscaling_state
    gangs = state.infeasible_gang_resource_requests
    together = [request for gang in gangs for request in gang.requests]
    together += [request for gang in gangs for part in gang.bundle_selectors for request in part.resource_requests]
    return [_needs_of(request) for request in [*state.infeasible_resource_requests, *together]]


def _needs_of(request: Any) -> NodeNeeds:
    """What a request of the autoscaler's asks for. Of several selectors, all but the first are second choices."""
    from ray.core.generated.common_pb2 import LabelSelectorOperator

    selector = {}
    for constraint in request.label_selectors[0].label_constraints if request.label_selectors else ():
        negation = "!" if constraint.operator == LabelSelectorOperator.LABEL_OPERATOR_NOT_IN else ""
        selector[constraint.label_key] = f"{negation}in({','.join(constraint.label_values)})"
    return NodeNeeds(dict(request.resources_bundle), selector)


def _request_of(needs: NodeNeeds) -> Any:
    """A request of the autoscaler's."""
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.common_pb2 import LabelSelectorOperator

    is_in, is_not_in = LabelSelectorOperator.LABEL_OPERATOR_IN, LabelSelectorOperator.LABEL_OPERATOR_NOT_IN
    conditions = [
        (key, is_in if among else is_not_in, sorted(values))
        for key, (among, values) in conditions_of(needs.label_selector).items()
    ]
    return ResourceRequestUtil.make(dict(needs.resources), label_selectors=[conditions] if conditions else None)


def complete_cluster_config(content: dict[str, Any]) -> dict[str, Any]:
    """Completes the content of a file for `ray up` with Ray's defaults, and checks it as `ray up` does. Used to check
    cluster files.

    Raises:
        ValueError, KeyError, RuntimeError, jsonschema.ValidationError: Ray refuses it.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

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
    single: Sequence[NodeNeeds],
    gangs: Sequence[Sequence[NodeNeeds]],
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
            kind.name,
            kind.min_workers,
            kind.max_workers,
            priority=kind.priority,
            resources=kind.resources,
            labels=kind.labels,
        )
        for kind in types
    }
    requests = [_request_of(needs) for needs in single]
    gang_requests = [GangResourceRequest(requests=[_request_of(needs) for needs in gang]) for gang in gangs]
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
