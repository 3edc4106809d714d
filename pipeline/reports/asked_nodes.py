"""The part of a dry run that says which nodes a cluster will be asked for."""

from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.cluster_file import ClusterFile
from cluster.nodes import Demand, as_object, nodes_for
from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError


def training_demand(recipe: Recipe, gpu: str) -> Demand:
    """The placement group of a stage's workers; every stage of a recipe asks for the same."""
    scaling = recipe.scaling
    planned_on = gpu if scaling.use_gpu else ""
    return Demand("training workers", scaling.num_workers, scaling.worker_resources, at_once=True, gpu=planned_on)


def say_nodes(console: Console, cluster: ClusterFile, demands: list[Demand]) -> dict[str, Any]:
    """Prints which nodes a cluster starts for `demands`, and returns them as plain values.

    Raises:
        UsageError: it can never start what they need.
    """
    asked = nodes_for(cluster, demands)
    table = Table("nodes", "type", "of each", title=f"Asked of {cluster.path}, where only its head runs")
    for kind in cluster.node_types:
        if kind.name in asked.nodes:
            has = ", ".join(f"{name} {amount:g}" for name, amount in kind.resources.items())
            table.add_row(f"{asked.nodes[kind.name]}", f"{kind.name} {kind.instance}".strip(), has)
    table.caption = "; ".join(map(str, demands))
    console.print(table)
    if cluster.placeholders:
        lines = ", ".join(str(line) for line in sorted({line for line, _ in cluster.placeholders}))
        console.print(f"note: {cluster.path} is still to be filled in, in lines {lines}", markup=False)
    for warning in asked.warnings:
        console.print(f"note: {warning}", markup=False)
    if asked.never:
        raise UsageError(f"{cluster.path} can never give it: {'; '.join(asked.never)}")
    return {"file": str(cluster.path)} | as_object(asked)
