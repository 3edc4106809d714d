"""The assumed rates of the links and the predicted steps, with which a preflight compares its measurements."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cluster.cluster_file import read_cluster_file
from pipeline.config.preflight import PreflightSettings
from pipeline.config.recipe import Recipe
from pipeline.planning.assumed_rates import ENDS, Range, links_of
from pipeline.planning.machines import machine_for
from pipeline.planning.prediction import Predictor


@dataclass(frozen=True)
class Assumed:
    """The plan's assumptions; None or empty where it has none, as on CPUs.

    Attributes:
        machine: name of the machine type.
        inside_bytes_per_s: bytes that a rank receives from its node's other ranks in a second.
        between_bytes_per_s: bytes that a node receives from other nodes in a second.
        step_s: predicted seconds of a step, by stage number. A range's `low` is the slowest case: the most seconds.
    """

    machine: str = ""
    inside_bytes_per_s: Range | None = None
    between_bytes_per_s: Range | None = None
    step_s: Mapping[int, Range] = field(default_factory=dict)


def assumed_of(recipe: Recipe, numbers: list[int], settings: PreflightSettings) -> Assumed:
    """Returns what the plan assumes of the recipe's workers on the machines of the cluster file, or else on the first
    known ones with its GPU.

    Raises:
        UsageError: the cluster file cannot be used.
    """
    file = read_cluster_file(settings.cluster) if settings.cluster else None
    machine = machine_for(recipe.plan.gpu, file) if recipe.scaling.use_gpu else None
    if machine is None:
        return Assumed()
    if settings.network_gbit_per_s:
        machine = replace(machine, network_gbit_per_s=settings.network_gbit_per_s)
    ranks = recipe.scaling.num_workers
    links = [links_of(machine, ranks, end) for end in ENDS]
    stages = Predictor(recipe, numbers).predict(machine, ranks).stages
    return Assumed(
        machine=machine.name,
        inside_bytes_per_s=Range(*(each.inside_bytes_per_s for each in links)),
        between_bytes_per_s=Range(*(each.between_bytes_per_s for each in links)),
        step_s={stage.number: Range(*(stage.at(end).seconds for end in ENDS)) for stage in stages},
    )
