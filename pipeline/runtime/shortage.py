"""What a job waits for on its cluster, and what the cluster can never give."""

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from pipeline.errors import UsageError
from pipeline.runtime.background import in_background
from pipeline.runtime.ray_autoscaler_private import (
    autoscaler_may_add_nodes,
    infeasible_requests,
    node_types_of_autoscaler,
)
from pipeline.runtime.ray_connection import is_own_cluster
from pipeline.runtime.ray_private import Request, free_resources, pending_requests
from pipeline.runtime.terminal import say
from tokenization.config.node_labels import NodeNeeds, matches, shown_labels
from tokenization.waiting import Wait

LOOK_S = 2.0
"""Seconds between two looks at what the job waits for."""
NodeOffer = tuple[dict[str, float], dict[str, str]]
"""A node's resources, by Ray's names, and its labels."""
logger = logging.getLogger(__name__)


@contextmanager
def saying_what_is_awaited(job: str) -> Iterator[None]:
    """Says what this Ray job's actors, tasks and workers wait for, while the enclosed block runs.

    Args:
        job: the job's name, with which the lines begin.
    """
    job_id = ray.get_runtime_context().get_job_id()

    def follow(ended: threading.Event) -> None:
        wait = Wait(lambda line: say(f"{job}: {line}"))
        while not ended.wait(LOOK_S):
            try:
                requests = pending_requests(job_id)
                line = describe(requests) if requests else ""
            except Exception as error:  # of many kinds while Ray's head is busy or gone, which the job itself notices
                logger.warning("%s; looking again", error)
                continue
            if line:
                wait.still(line)
            else:
                wait.over()

    with in_background(follow, "says what is awaited"):
        yield


def describe(requests: Sequence[Request]) -> str:
    """Says what is requested, and how much of that is free and is there at all, on nodes with the labels."""
    amounts = Counter(str(request.needs) for request in requests)
    whom = ", ".join(dict.fromkeys(request.whom for request in requests))
    most_first = sorted(amounts.items(), key=lambda item: (-item[1], item[0]))  # Ray's tables have no order
    parts = [f"{count} x ({amount})" if count > 1 else amount for amount, count in most_first if amount]
    if not parts:
        return f"a process for {whom}; `ray status` shows the cluster"
    asked = _distinct([request.needs for request in requests])
    nodes = [node for node in ray.nodes() if node["Alive"] and any(_is_labelled(node, needs) for needs in asked)]
    free_on = free_resources()
    free = sum((Counter(free_on.get(node["NodeID"], {})) for node in nodes), Counter[str]())
    total = sum((Counter(node["Resources"]) for node in nodes), Counter[str]())
    kinds = sorted({kind for needs in asked for kind, amount in needs.resources.items() if amount})
    there = ", ".join(f"{free[kind]:g} of {total[kind]:g} {kind} are free" for kind in kinds)
    said = f"{', '.join(parts)} for {whom}{': ' if there else ''}{there}"
    return f"{said}{_lack(asked)}; `ray status` shows who has them"


def _is_labelled(node: dict[str, Any], needs: NodeNeeds) -> bool:
    return matches(needs.label_selector, node["Labels"])


def _distinct(needs: Iterable[NodeNeeds]) -> list[NodeNeeds]:
    return list({str(each): each for each in needs}.values())


def _lack(asked: Sequence[NodeNeeds]) -> str:
    """Says whether no node has what is asked for, and whether the autoscaler can start none."""
    nodes = _nodes()
    lacking = [needs for needs in asked if not _fits(needs, nodes)]
    if not lacking:
        return ""
    never = any(needs.is_same_as(each) for needs in infeasible_requests() for each in lacking)
    return "; no node has that now" + (", and the cluster's autoscaler can start none that has" if never else "")


def check_obtainable(requests: Sequence[NodeNeeds], remedy: str) -> None:
    """Checks that this cluster has, or may get, a node for each request; call it before anything waits.

    A cluster whose autoscaler may start nodes of unknown types is not judged, nor one without an autoscaler that has
    only its head so far. On the Ray that this job started for itself, all requests must fit at once.

    Args:
        requests: what each worker or actor needs of its node.
        remedy: what a user may change instead.

    Raises:
        UsageError: there is a request that will never be met.
    """
    nodes, others = _nodes(), "no autoscaler adds others"
    if not is_own_cluster() and autoscaler_may_add_nodes():
        types = node_types_of_autoscaler(ray.get_runtime_context().gcs_address)
        if types is None:
            return
        nodes, others = nodes + types, "the autoscaler adds no others"
    elif not any(resources.get("CPU", 0) for resources, _ in nodes):
        return
    for needs in _distinct(requests):
        if not _fits(needs, nodes):
            raise UsageError(f"no node of this cluster {_what_lacks(needs, nodes)}, and {others}; {remedy}")
    if is_own_cluster() and (over := _over(requests)):
        raise UsageError(f"{over}, which Ray was started with on this machine; {remedy}")


def _what_lacks(needs: NodeNeeds, nodes: Sequence[NodeOffer]) -> str:
    """Says which labels no node has, or else what the nodes with the labels have too little of."""
    matching = [resources for resources, labels in nodes if matches(needs.label_selector, labels)]
    if not matching:
        return f"has {shown_labels(needs.label_selector)}: {_values_there(needs.label_selector, nodes)}"
    most = [f"{max(node.get(kind, 0) for node in matching):g} {kind}" for kind in sorted(needs.resources)]
    return f"can hold {needs}: the most on one node are {', '.join(most)}"


def _values_there(keys: Iterable[str], nodes: Sequence[NodeOffer]) -> str:
    """The values that the nodes have for some labels."""
    there = []
    for key in sorted(keys):
        values = sorted({labels[key] for _, labels in nodes if key in labels})
        there.append(f"{key} is {' or '.join(values)}" if values else f"none has the label {key}")
    return ", ".join(there)


def _over(requests: Sequence[NodeNeeds]) -> str:
    """Names the resource of which the requests take more than there is in all."""
    total = ray.cluster_resources()
    for kind in dict.fromkeys(kind for needs in requests for kind in needs.resources):
        wanted = sum(needs.resources.get(kind, 0) for needs in requests)
        if wanted > total.get(kind, 0):
            return f"{wanted:g} {kind} are asked for, more than the {total.get(kind, 0):g}"
    return ""


def _nodes() -> list[NodeOffer]:
    return [(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]


def _fits(needs: NodeNeeds, nodes: Sequence[NodeOffer]) -> bool:
    return any(needs.count_on(*node) for node in nodes)
