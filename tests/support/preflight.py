"""Nodes and findings of a preflight, for tests without a cluster."""

from collections.abc import Iterable

from pipeline.preflight.finding import Finding, Verdict
from pipeline.preflight.nodes import Node


def node(name: str, is_drivers: bool = False, **resources: float) -> Node:
    """A node whose id and host are `name`."""
    return Node(name, name, resources or {"CPU": 8.0}, is_drivers)


def verdicts(findings: Iterable[Finding]) -> dict[tuple[str, str], Verdict]:
    """The verdict by what was checked and the node's first word."""
    return {(finding.what, finding.node.split(" ")[0]): finding.verdict for finding in findings}
