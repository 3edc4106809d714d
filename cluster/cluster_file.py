"""Reads cluster files of `ray up` and KubeRay in the same way as Ray."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from pipeline.errors import UsageError
from pipeline.runtime.ray_autoscaler_private import cluster_config_of_manifest, complete_cluster_config

PLACEHOLDER = re.compile(r"FILL_IN_[A-Z0-9_]*[A-Z0-9]")
COMMENT = re.compile(r"(^|\s)#.*")
KUBERAY_API = "ray.io/"
SHIPPED = Path(__file__).parent
"""Where the project's own cluster files lie."""


@dataclass(frozen=True)
class NodeType:
    """A type of nodes that the autoscaler may start.

    Attributes:
        name: key in the file.
        instance: the provider's name of the machine type; empty if it has none.
        resources: resources of one node, by Ray's names; empty if only the machine itself knows them.
        labels: node labels that the file gives each node.
        min_workers, max_workers: bounds on the number of nodes.
        priority: among equally suitable types, the one with the highest priority starts first.
    """

    name: str
    instance: str = ""
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    min_workers: int = 0
    max_workers: int = 0
    priority: int = 0


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file with Ray's defaults filled in.

    Attributes:
        path: path of the file.
        config: config of Ray's autoscaler, with defaults; for a KubeRay manifest, the one that Ray derives from it.
        node_types: types of worker nodes.
        max_workers: maximum number of nodes besides the head.
        placeholders: line (from 1) and name of each placeholder that is not filled in.
    """

    path: Path
    config: dict[str, Any]
    node_types: tuple[NodeType, ...]
    max_workers: int
    placeholders: tuple[tuple[int, str], ...]

    @property
    def provider(self) -> str:
        """The value of `provider.type`."""
        return str(self.config["provider"]["type"])


def find_cluster_file(name: str) -> Path:
    """Returns the file at a path, or else the project's file of that name or relative path.

    Raises:
        UsageError: there is no such file.
    """
    for file in (Path(name), SHIPPED.parent / name, SHIPPED / name, SHIPPED / f"{name}.yaml"):
        if file.is_file():
            return file
    raise UsageError(f"there is no cluster file {name!r}; those of the project lie in {SHIPPED}")


def read_cluster_file(path: str) -> ClusterFile:
    """Reads a file for `ray up`, or a manifest with one RayCluster, also of a job, that `find_cluster_file` finds.

    Raises:
        UsageError: the file is missing, is not YAML, or Ray would reject it.
    """
    file = find_cluster_file(path)
    path = str(file)
    text = file.read_text(encoding="utf-8")
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no YAML: {error}") from error
    clusters = [cluster for one in documents if isinstance(one, dict) and (cluster := _ray_cluster(one))]
    is_manifest = any(
        str(one.get("apiVersion", "")).startswith(KUBERAY_API) for one in documents if isinstance(one, dict)
    )
    if is_manifest and len(clusters) != 1:
        raise UsageError(
            f"{path} has {len(clusters)} RayClusters; name a file with one: a RayJob's nodes are its cluster's"
        )
    if not is_manifest and (len(documents) != 1 or not isinstance(documents[0], dict)):
        raise UsageError(f"{path} is no cluster file: it must be one mapping, as `ray up` takes it")
    try:
        config = _of_manifest(clusters[0]) if is_manifest else _of_ray_up(documents[0])
    except (ValueError, KeyError, RuntimeError, jsonschema.ValidationError) as error:
        reason = error.message if isinstance(error, jsonschema.ValidationError) else str(error)
        where = "".join(f"{part}: " for part in getattr(error, "absolute_path", ()))
        raise UsageError(f"{path}: Ray refuses it: {where}{reason}") from error
    return ClusterFile(file, config, _node_types(config), int(config["max_workers"]), tuple(placeholders(text)))


def placeholders(text: str) -> list[tuple[int, str]]:
    """Returns line and name of each placeholder outside of comments."""
    lines = enumerate((COMMENT.sub("", line) for line in text.splitlines()), start=1)
    return [(number, name) for number, line in lines for name in PLACEHOLDER.findall(line)]


def _of_ray_up(content: dict[str, Any]) -> dict[str, Any]:
    provider = content.get("provider")
    if not isinstance(provider, dict) or "type" not in provider:
        raise ValueError("it has no provider with a type")
    if provider["type"] == "local" and not {"head_ip", "worker_ips"} <= provider.keys():
        raise ValueError("provider local needs head_ip and worker_ips")
    if provider["type"] != "local" and "available_node_types" not in content:
        raise ValueError("it has no available_node_types")
    return complete_cluster_config(content)


def _of_manifest(content: dict[str, Any]) -> dict[str, Any]:
    metadata = {"namespace": "default"} | content.get("metadata", {})
    return cluster_config_of_manifest(content | {"metadata": metadata})


def _ray_cluster(document: dict[str, Any]) -> dict[str, Any] | None:
    """A manifest's RayCluster: the document itself, or that of a RayJob, or of what a RayCronJob makes."""
    if document.get("kind") == "RayCluster":
        return document
    spec = document.get("spec") or {}
    cluster = spec.get("jobTemplate", spec).get("rayClusterSpec")
    return document | {"spec": cluster} if cluster else None


def _node_types(config: dict[str, Any]) -> tuple[NodeType, ...]:
    local = config["provider"]["type"] == "local"
    return tuple(
        NodeType(
            name,
            str(entry["node_config"].get("InstanceType") or entry["node_config"].get("machineType") or ""),
            dict(entry["resources"]),
            dict(entry.get("labels") or {}),
            int(entry.get("min_workers", 0)),
            int(entry.get("max_workers", 0)),
            int(entry.get("priority", 0)),
        )
        for name, entry in config["available_node_types"].items()
        if local or name != config["head_node_type"]
    )
