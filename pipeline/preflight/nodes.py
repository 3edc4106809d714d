"""The nodes of the cluster, and functions that run on each of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.runtime.ray_private import draining_nodes
from tokenization.config.node_labels import NodeNeeds

T = TypeVar("T")
OWN_ERRORS = ("pipeline.errors", "tokenization.errors")
ERROR_CHARACTERS = 300
"""Maximum characters of an error in a finding."""


@dataclass(frozen=True)
class Node:
    """A live node of the cluster.

    Attributes:
        node_id: Ray's id, hexadecimal.
        host: its host name.
        resources: all of its resources, by Ray's names.
        is_drivers: True for the node on which this job's own process runs.
        labels: its node labels.
    """

    node_id: str
    host: str
    resources: Mapping[str, float] = field(hash=False, compare=False)
    is_drivers: bool = False
    labels: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)

    def __str__(self) -> str:
        return f"{self.host} {self.node_id[:8]}"

    def capacity(self, needs: NodeNeeds) -> int:
        """Returns the number of such workers that the node can hold while nobody else is on it."""
        return needs.count_on(self.resources, self.labels)


@dataclass(frozen=True)
class Answers(Generic[T]):
    """The result of a function on each node, and one line for each node on which it failed."""

    values: dict[Node, T]
    errors: dict[Node, str]


def cluster_nodes() -> list[Node]:
    """Returns the live nodes that are not about to be taken away, that of the driver first."""
    driver, leaving = ray.get_runtime_context().get_node_id(), draining_nodes()
    nodes = [
        Node(
            each["NodeID"],
            each["NodeManagerHostname"],
            dict(each["Resources"]),
            each["NodeID"] == driver,
            dict(each["Labels"]),
        )
        for each in ray.nodes()
        if each["Alive"] and each["NodeID"] not in leaving
    ]
    return sorted(nodes, key=lambda node: (not node.is_drivers, node.host, node.node_id))


def ask(calls: Mapping[Node, Callable[[], T]], limit_s: float) -> Answers[T]:
    """Runs each function on its node, all at once, without reserving resources.

    A function that does not return within `limit_s` is killed.
    """
    started = time.monotonic()
    references: dict[Any, Node] = {}
    for node, call in calls.items():
        there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        references[_TASK.options(scheduling_strategy=there).remote(call)] = node
    done, late = ray.wait(list(references), num_returns=len(references), timeout=limit_s) if references else ([], [])
    answers = Answers[T]({}, {})
    for reference in done:
        try:
            answers.values[references[reference]] = ray.get(reference)
        except Exception as error:  # a probe that fails must not hide the others
            answers.errors[references[reference]] = one_line(error)
    for reference in late:
        ray.cancel(reference, force=True)
        answers.errors[references[reference]] = f"no answer within {time.monotonic() - started:.0f} s"
    return answers


def _called(call: Callable[[], T]) -> T:
    return call()


_TASK: Any = ray.remote(num_cpus=0, max_retries=0)(_called)


def one_line(error: BaseException) -> str:
    """Returns an error's message in one line, without Ray's traceback, and its kind where that is not the project's."""
    cause = getattr(error, "cause", None)
    error = cause if isinstance(error, ray.exceptions.RayTaskError) and cause is not None else error
    kind = "" if type(error).__module__ in OWN_ERRORS else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"[:ERROR_CHARACTERS]
