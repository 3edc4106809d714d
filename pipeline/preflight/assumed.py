"""The bandwidths that a run is planned with. The one place that says where they come from."""

from cluster.cluster_file import read_cluster_file
from pipeline.config.links import Links, stated_links
from pipeline.config.preflight import PreflightSettings
from pipeline.config.recipe import Recipe


def assumed_links(recipe: Recipe, settings: PreflightSettings) -> Links:
    """Returns the assumed bandwidths: the settings' own, or else what the makers state of the recipe's GPU, and of the
    machine type of the cluster file that is started first for the recipe's workers.

    Raises:
        UsageError: the cluster file cannot be used.
    """
    stated = stated_links(recipe.plan.gpu if recipe.scaling.use_gpu else "", _machine_type(recipe, settings.cluster))
    inside, between = settings.inside_gb_per_s * 1e9, settings.between_gb_per_s * 1e9
    return Links(inside or stated.inside_bytes_per_s, between or stated.between_bytes_per_s)


def _machine_type(recipe: Recipe, cluster: str) -> str:
    if not cluster:
        return ""
    wanted = recipe.scaling.worker_resources
    fitting = [
        kind
        for kind in read_cluster_file(cluster).node_types
        if all(kind.resources.get(name, 0.0) >= amount for name, amount in wanted.items())
    ]
    return max(fitting, key=lambda kind: kind.priority).instance if fitting else ""
