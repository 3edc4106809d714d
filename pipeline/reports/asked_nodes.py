"""The part of a dry run about the actors that start, and the nodes that a cluster is asked for."""

from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.cluster_file import ClusterFile, read_cluster_file
from cluster.nodes import Demand, as_object, nodes_for
from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError
from pipeline.runtime.terminal import tables_to
from tokenization.config.node_labels import shown_labels
from tokenization.config.workers import Workers


def training_demand(recipe: Recipe, gpu: str) -> Demand:
    """Returns the placement group of a stage's workers; every stage of a recipe asks for the same."""
    scaling = recipe.scaling
    planned_on = gpu if scaling.use_gpu else ""
    return Demand("training workers", scaling.num_workers, scaling.worker_needs, at_once=True, gpu=planned_on)


def plan_tokenizers(workers: Workers, cluster: str, as_json: bool) -> dict[str, Any]:
    """Prints the actors that tokenization starts, and the nodes they ask a cluster for.

    Args:
        workers: worker settings of the recipe.
        cluster: cluster file; empty for none.
        as_json: see `tables_to`.

    Raises:
        UsageError: the cluster can never start them.
    """
    file = read_cluster_file(cluster) if cluster else None
    encoders = Demand("encoders", workers.num_encoders, workers.encoder_needs)
    readers = Demand("readers", workers.max_readers or 1, workers.reader_needs)
    console = tables_to(as_json)
    console.print(f"tokenize: {encoders}; up to {readers}, as the encoders need them", markup=False)
    if not workers.max_readers:
        console.print(
            "note: without --readers there will be one reader per CPU that the cluster has when the job starts, and "
            "one if it has none yet",
            markup=False,
        )
    actors = {"encoders": workers.num_encoders, "readers": workers.max_readers}
    return actors | ({"cluster": print_nodes(console, file, [encoders, readers])} if file else {})


def print_nodes(console: Console, cluster: ClusterFile, demands: list[Demand]) -> dict[str, Any]:
    """Prints which nodes a cluster starts for `demands`, and returns them as plain values.

    Raises:
        UsageError: the cluster can never start them.
    """
    asked = nodes_for(cluster, demands)
    table = Table("nodes", "type", "of each", "labels", title=f"Asked of {cluster.path}, where only its head runs")
    for kind in cluster.node_types:
        if kind.name in asked.nodes:
            has = ", ".join(f"{name} {amount:g}" for name, amount in kind.resources.items())
            name, labels = f"{kind.name} {kind.instance}".strip(), shown_labels(kind.labels)
            table.add_row(f"{asked.nodes[kind.name]}", name, has, labels)
    table.caption = "; ".join(map(str, demands))
    console.print(table)
    if cluster.placeholders:
        lines = ", ".join(str(line) for line in sorted({line for line, _ in cluster.placeholders}))
        console.print(f"note: {cluster.path} has placeholders to fill in, in lines {lines}", markup=False)
    for warning in asked.warnings:
        console.print(f"note: {warning}", markup=False)
    if asked.never:
        raise UsageError(f"{cluster.path} can never provide these nodes: {'; '.join(asked.never)}")
    return {"file": str(cluster.path)} | as_object(asked)
