"""Computes the nodes that a job makes the autoscaler start, with Ray's own scheduler and without a cluster."""

from dataclasses import dataclass
from typing import Any

from cluster.cluster_file import ClusterFile, NodeType
from pipeline.config.gpus import MODEL_NAMES
from pipeline.runtime.ray_autoscaler_private import nodes_to_start
from tokenization.config.node_labels import NodeNeeds, matches, on_a_node, shown_labels

ACCELERATOR = "ray.io/accelerator-type"
"""The node label with the type of a node's GPUs."""


@dataclass(frozen=True)
class Demand:
    """Workers that a job asks for.

    Attributes:
        what: description of the workers.
        count: number of workers.
        needs: what each worker needs of its node.
        at_once: all or none of them, as in a placement group.
        gpu: GPU model that the job is planned on, as in `A100-80GB`; empty for any.
    """

    what: str
    count: int
    needs: NodeNeeds
    at_once: bool = False
    gpu: str = ""

    def __str__(self) -> str:
        each = ", ".join(f"{name} {amount:g}" for name, amount in self.needs.resources.items())
        return f"{self.count} {self.what} of {each}{on_a_node(self.needs.label_selector)}"


@dataclass(frozen=True)
class AskedNodes:
    """The nodes that a cluster starts for some simultaneous demands.

    Attributes:
        nodes: number of nodes to start, by node type.
        never: why the cluster can never meet the demands; empty if it can.
        warnings: results that work but may not be intended.
    """

    nodes: dict[str, int]
    never: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def nodes_for(cluster: ClusterFile, demands: list[Demand]) -> AskedNodes:
    """Returns the nodes that the autoscaler of `ray up` and KubeRay starts for `demands` when only the head runs.

    The head's resources are not counted: the heads in the project's files have none.
    """
    unknown = [kind.name for kind in cluster.node_types if not kind.resources]
    if unknown:
        names = ", ".join(f"{kind.max_workers} of {kind.name}" for kind in cluster.node_types)
        said = f"the file does not state the resources of its machines ({names}), so the nodes cannot be computed"
        return AskedNodes({}, warnings=(said,))
    gangs = [[demand.needs] * demand.count for demand in demands if demand.at_once]
    single = [demand.needs for demand in demands if not demand.at_once for _ in range(demand.count)]
    nodes, all_met = nodes_to_start(cluster.node_types, cluster.max_workers, single, gangs)
    never: tuple[str, ...] = ()
    if not all_met:
        never = tuple(filter(None, (_why_never(cluster, demand) for demand in demands)))
        never = never or (_too_much(cluster, demands),)
    return AskedNodes(nodes, never, _warnings(cluster, demands))


def capacity(kind: NodeType, needs: NodeNeeds) -> int:
    """Returns the number of such workers that each single node can hold."""
    return needs.count_on(kind.resources, kind.labels)


def _why_never(cluster: ClusterFile, demand: Demand) -> str:
    """Returns why a single demand cannot be met; empty if it can."""
    needs = demand.needs
    labelled = [kind for kind in cluster.node_types if matches(needs.label_selector, kind.labels)]
    if not labelled:
        have = "; ".join(f"{kind.name} has {shown_labels(kind.labels) or 'none'}" for kind in cluster.node_types)
        return f"{demand}: no node type has such labels: {have}"
    if not any(capacity(kind, needs) for kind in labelled):
        lacking = []
        for name, amount in needs.resources.items():
            most = max(kind.resources.get(name, 0) for kind in labelled)
            if most < amount:
                lacking.append(f"each asks for {name} {amount:g}, and no type has more than {most:g}")
        return f"{demand}: no node type can hold a single one" + (
            f": {'; '.join(lacking)}" if lacking else " with all its resources"
        )
    most, nodes_left = 0, cluster.max_workers
    for kind in sorted(labelled, key=lambda each: capacity(each, needs), reverse=True):
        if fit := capacity(kind, needs):
            nodes = min(kind.max_workers, nodes_left)
            most, nodes_left = most + nodes * fit, nodes_left - nodes
    if most >= demand.count:
        return ""
    limits = ", ".join(f"{k.max_workers} of {k.name}" for k in labelled if capacity(k, needs))
    return f"{demand}: the cluster holds {most} at most (max_workers {cluster.max_workers}; {limits})"


def _too_much(cluster: ClusterFile, demands: list[Demand]) -> str:
    return f"{' and '.join(map(str, demands))} do not fit together into max_workers {cluster.max_workers}"


def _warnings(cluster: ClusterFile, demands: list[Demand]) -> tuple[str, ...]:
    """Returns warnings about node types the autoscaler may fall back to although their GPU is not the planned one."""
    found = []
    for demand in demands:
        fitting = [kind for kind in cluster.node_types if demand.gpu and capacity(kind, demand.needs)]
        others = [kind.name for kind in fitting if not _may_have(kind, demand.gpu)]
        if others:
            right = [kind.labels.get(ACCELERATOR, "") for kind in fitting if kind.name not in others]
            label = max(right, default="") or demand.gpu
            found.append(
                f"{demand.what} are planned on {demand.gpu}, but the autoscaler also starts {', '.join(others)} if no "
                f"other node is available; to prevent that, --set scaling.label_selector=\"{{'{ACCELERATOR}': "
                f"'{label}'}}\""
            )
    return tuple(found)


def _may_have(kind: NodeType, gpu: str) -> bool:
    """False if a node type states other GPUs: in its label, as in A100-80G for A100-80GB and A100 for any size, or, as
    it was done before, by a resource of the GPU's name."""
    if label := kind.labels.get(ACCELERATOR):
        return gpu.startswith(label)
    models = [name for name in kind.resources if name.startswith(MODEL_NAMES)]
    return not models or gpu in models


def as_object(asked: AskedNodes) -> dict[str, Any]:
    """Returns the result as plain values."""
    return {"nodes": asked.nodes, "never": list(asked.never), "warnings": list(asked.warnings)}
