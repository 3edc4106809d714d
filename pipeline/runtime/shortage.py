"""What a job waits for on its cluster, and what the cluster can never give."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray

from pipeline.errors import UsageError
from pipeline.runtime.background import in_background
from pipeline.runtime.ray_autoscaler_private import (
    autoscaler_may_add_nodes,
    infeasible_requests,
    node_types_of_autoscaler,
)
from pipeline.runtime.ray_connection import is_own_cluster
from pipeline.runtime.ray_private import Request, pending_requests
from pipeline.runtime.terminal import say
from tokenization.waiting import Wait

LOOK_S = 2.0
"""Seconds between two looks at what the job waits for."""
Resources = dict[str, float]
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
    """Says what is requested, and how much of that is free and is there at all."""
    amounts = Counter(_amounts(request.resources) for request in requests)
    whom = ", ".join(dict.fromkeys(request.whom for request in requests))
    parts = [f"{count} x ({amount})" if count > 1 else amount for amount, count in amounts.items() if amount]
    if not parts:
        return f"a process for {whom}; `ray status` shows the cluster"
    free, total = ray.available_resources(), ray.cluster_resources()
    kinds = sorted({kind for request in requests for kind, amount in request.resources.items() if amount})
    there = [f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind} are free" for kind in kinds]
    return f"{', '.join(parts)} for {whom}: {', '.join(there)}{_lack(requests)}; `ray status` shows who has them"


def _lack(requests: Sequence[Request]) -> str:
    """Says whether no node has what is requested, and whether the autoscaler can start none."""
    lacking = [each.resources for each in requests if not _fits(each.resources, _nodes())]
    if not lacking:
        return ""
    never = [resources for resources in infeasible_requests() if resources in lacking]
    return "; no node has that now" + (", and the cluster's autoscaler can start none that has" if never else "")


def check_obtainable(requests: Sequence[Resources], remedy: str) -> None:
    """Checks that this cluster has, or may get, a node for each request; call it before anything waits.

    A cluster whose autoscaler may start nodes of unknown types is not judged, nor one without an autoscaler that has
    only its head so far. On the Ray that this job started for itself, all requests must fit at once.

    Args:
        requests: the resources of each worker or actor, by Ray's names.
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
    elif not any(node.get("CPU", 0) for node in nodes):
        return
    for request in requests:
        if not _fits(request, nodes):
            kinds = [f"{max(node.get(kind, 0) for node in nodes):g} {kind}" for kind in sorted(request)]
            raise UsageError(
                f"no node of this cluster can hold {_amounts(request)}: the most on one node are {', '.join(kinds)}, "
                f"and {others}; {remedy}"
            )
    if is_own_cluster() and (over := _over(requests)):
        raise UsageError(f"{over}, which Ray was started with on this machine; {remedy}")


def _over(requests: Sequence[Resources]) -> str:
    """Names the resource of which the requests take more than there is in all."""
    total = ray.cluster_resources()
    for kind in dict.fromkeys(kind for request in requests for kind in request):
        wanted = sum(request.get(kind, 0) for request in requests)
        if wanted > total.get(kind, 0):
            return f"{wanted:g} {kind} are asked for, more than the {total.get(kind, 0):g}"
    return ""


def _nodes() -> list[Resources]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fits(request: Resources, nodes: Sequence[Resources]) -> bool:
    return any(all(node.get(kind, 0) >= amount for kind, amount in request.items()) for node in nodes)


def _amounts(resources: Resources) -> str:
    return ", ".join(f"{amount:g} {kind}" for kind, amount in sorted(resources.items()) if amount)
