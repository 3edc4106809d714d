"""Finds problems in a cluster file without access to a cloud."""

import json
from functools import cache
from typing import Any

import botocore.session
from botocore.validate import ParamValidator

from cluster.cluster_file import ClusterFile, NodeType, find_cluster_file, placeholders, read_cluster_file
from tokenization.config.node_labels import is_label, shown_labels

RAY_JOB = "\nkind: RayJob\n"
BY_RAY = ("SubnetIds",)
"""Keys of a node_config that Ray takes out before AWS sees it."""
EFA_CARDS = {"p4d.24xlarge": 4, "p4de.24xlarge": 4}
"""Network cards, each of which can have one EFA interface (EC2's table of instance types)."""


def check_file(path: str) -> tuple[list[str], list[str]]:
    """Returns the problems of a file for `ray up` or a KubeRay manifest, with their places, and one line per node type.

    Raises:
        UsageError: the file is missing, is not YAML, or Ray would reject it.
    """
    file = find_cluster_file(path)
    text = file.read_text(encoding="utf-8")
    if RAY_JOB in f"\n{text}":
        found = [f"{file}:{line}: {name} is still to be filled in" for line, name in placeholders(text)]
        return found, [f"{file}: a RayJob; its nodes are those of its RayCluster"]
    cluster = read_cluster_file(str(file))
    return problems_of(cluster), [f"{file}: {describe(kind)}" for kind in cluster.node_types]


def problems_of(cluster: ClusterFile) -> list[str]:
    """Returns the problems of a cluster file with their places; empty if there are none."""
    found = [
        f"{cluster.path}:{line}: {name} is still to be filled in; the comment at the top of the file says how"
        for line, name in cluster.placeholders
    ]
    check = {"aws": aws_problems, "gcp": gcp_problems}.get(cluster.provider)
    for name, entry in cluster.config["available_node_types"].items() if check else ():
        assert check is not None
        found += [f"{cluster.path}: {name}: {problem}" for problem in check(entry["node_config"])]
    found += [f"{cluster.path}: {problem}" for problem in [*size_problems(cluster), *label_problems(cluster)]]
    host = [word for word in _start_words(cluster) if word.startswith("--dashboard-host=")]
    if host and host[-1] != "--dashboard-host=127.0.0.1":
        found.append(f"{cluster.path}: the head starts with {host[-1]}: whoever reaches it runs code; use 127.0.0.1")
    return found


def size_problems(cluster: ClusterFile) -> list[str]:
    """Returns bounds that contradict each other."""
    found = []
    for kind in cluster.node_types:
        if kind.min_workers > kind.max_workers:
            found.append(f"{kind.name}: min_workers {kind.min_workers} is above max_workers {kind.max_workers}")
        if kind.max_workers > cluster.max_workers:
            found.append(f"{kind.name}: max_workers {kind.max_workers} is above the cluster's {cluster.max_workers}")
    return found


def label_problems(cluster: ClusterFile) -> list[str]:
    """Returns node labels that no selector can name."""
    return [
        f"{kind.name}: the label {key}={value} cannot be selected; write it as in ray.io/market-type=spot"
        for kind in cluster.node_types
        for key, value in kind.labels.items()
        if not is_label(key, value)
    ]


def aws_problems(node_config: dict[str, Any]) -> list[str]:
    """Checks against botocore's model of RunInstances: unknown keys, wrong types, unknown values."""
    model = _run_instances()
    sent = {key: value for key, value in node_config.items() if key not in BY_RAY} | {"MinCount": 1, "MaxCount": 1}
    report = ParamValidator().validate(sent, model)
    found = report.generate_report().splitlines() if report.has_errors() else []
    found += _unknown_values(sent, model, "")
    interfaces, kind = node_config.get("NetworkInterfaces", []), node_config.get("InstanceType", "")
    if interfaces and (cards := EFA_CARDS.get(kind)):
        efa = [one.get("NetworkCardIndex", 0) for one in interfaces if one.get("InterfaceType") == "efa"]
        if sorted(efa) != list(range(cards)):
            found.append(f"{kind} has network cards 0 to {cards - 1}; EFA interfaces are on {sorted(efa)}")
    return found


@cache
def _run_instances() -> Any:
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


@cache
def _compute_engine() -> dict[str, Any]:
    from googleapiclient.discovery_cache import get_static_doc

    schemas: dict[str, Any] = json.loads(get_static_doc("compute", "v1"))["schemas"]
    return schemas


def _unknown_values(value: Any, shape: Any, path: str) -> list[str]:
    if shape.type_name == "structure" and isinstance(value, dict):
        parts = [(f"{path}.{key}", part, shape.members[key]) for key, part in value.items() if key in shape.members]
    elif shape.type_name == "list" and isinstance(value, list):
        parts = [(f"{path}[{index}]", part, shape.member) for index, part in enumerate(value)]
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        return [f"{path.lstrip('.')} {value!r} is unknown to this botocore"]
    else:
        return []
    return [problem for where, part, kind in parts for problem in _unknown_values(part, kind, where)]


def gcp_problems(node_config: dict[str, Any]) -> list[str]:
    """Checks against the discovery document of Compute Engine: unknown keys, wrong types, unknown values."""
    try:
        schemas = _compute_engine()
    except ImportError:
        return ["cannot be checked, and `ray up` cannot work: pip install google-api-python-client"]
    return _against_discovery(node_config, schemas["Instance"], schemas, "")


def _against_discovery(value: Any, schema: dict[str, Any], schemas: dict[str, Any], path: str) -> list[str]:
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
    }
    where = path or "it"
    # The API sends 64-bit numbers as strings, and accepts both.
    number_as_text = schema.get("format") in ("int64", "uint64") and isinstance(value, int | str)
    wanted = kinds[schema["type"]]
    if not number_as_text and (not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool)):
        return [f"{where} is a {type(value).__name__}, the API wants {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where} is {value!r}, but must be one of {', '.join(schema['enum'])}"]
    if schema["type"] == "array":
        return [
            p
            for i, part in enumerate(value)
            for p in _against_discovery(part, schema["items"], schemas, f"{path}[{i}]")
        ]
    if schema["type"] != "object":
        return []
    found = []
    for key, part in value.items():
        inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
        name = f"{path}.{key}".lstrip(".")
        found += _against_discovery(part, inner, schemas, name) if inner else [f"the API does not know {name}"]
    return found


def describe(kind: NodeType) -> str:
    """Describes a node type in one line."""
    has = ", ".join(f"{name} {count:g}" for name, count in kind.resources.items()) or "what its machine has"
    bounds = (
        f"{kind.min_workers} to {kind.max_workers}" if kind.min_workers < kind.max_workers else f"{kind.max_workers}"
    )
    labels = f"; {shown_labels(kind.labels)}" if kind.labels else ""
    return f"{bounds} x {kind.name}{f' ({kind.instance})' if kind.instance else ''}: {has}{labels}"


def _start_words(cluster: ClusterFile) -> list[str]:
    return [word for command in cluster.config["head_start_ray_commands"] for word in command.split()]
