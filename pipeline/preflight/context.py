"""The common inputs of all checks of one preflight."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pipeline.config.recipe import Recipe
from pipeline.config.stage import StageConfig
from pipeline.planning.recipe_plan import RecipePlan
from pipeline.preflight.assumed import Assumed
from pipeline.preflight.devices import Need
from pipeline.preflight.folders import Folder
from pipeline.preflight.inputs import Inputs
from pipeline.preflight.nodes import Node
from pipeline.runs.paths import RunPaths
from pipeline.training.stage_run import StageRun
from tokenization.config.vqgan import split_choice

T = TypeVar("T")
MASTER_AND_MOMENTS_BYTES = 12
"""Bytes of a trained parameter in a checkpoint: the float32 weight and AdamW's two moments."""


class Deadline:
    """The time limit of all checks together.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._started, self._seconds = time.monotonic(), seconds

    def left_s(self) -> float:
        """Seconds that are left; negative if the time is over."""
        return self._seconds - self.spent_s()

    def spent_s(self) -> float:
        return time.monotonic() - self._started


@dataclass
class Preflight:
    """The recipe, the cluster and the time of one preflight.

    Attributes:
        recipe, paths: recipe and paths of the run; `recipe.scaling.num_workers` is the number that has room.
        plan: the plan of the stages that are checked, on so many workers.
        nodes: the live nodes, that of the driver first.
        assumed: what the plan assumes of links and steps.
        has_room: True if the workers can start now.
        deadline: the time for all checks.
        stage_runs: inputs of each stage that fit, by number, once they were made.
        stage_problems: why the inputs of a stage do not fit, by number.
    """

    recipe: Recipe
    paths: RunPaths
    plan: RecipePlan
    nodes: list[Node]
    assumed: Assumed
    has_room: bool
    deadline: Deadline
    stage_runs: dict[int, StageRun] = field(default_factory=dict)
    stage_problems: dict[int, str] = field(default_factory=dict)

    @property
    def training_nodes(self) -> list[Node]:
        """The nodes on which workers may run."""
        return [node for node in self.nodes if node.capacity(self.recipe.scaling.worker_needs)]

    @property
    def checked_nodes(self) -> list[Node]:
        """These, and the node of this job's own process."""
        training = self.training_nodes
        return [node for node in self.nodes if node.is_drivers or node in training]

    def limit_s(self, limit_s: float) -> float:
        """Returns a probe's own limit, or what is left of the time if that is less."""
        return max(0.0, min(limit_s, self.deadline.left_s()))

    def needs(self) -> dict[Node, Need]:
        """Returns what the plan needs of each node on which workers may run."""
        scaling, peak = self.recipe.scaling, max(stage.memory.peak for stage in self.plan.stages)
        own = -(-self.plan.counts.trainable // scaling.num_workers) * MASTER_AND_MOMENTS_BYTES
        needs = {}
        for node in self.training_nodes:
            ranks = min(node.capacity(scaling.worker_needs), scaling.num_workers)
            if scaling.use_gpu:  # host memory holds a copy of what a checkpoint has
                needs[node] = Need(ranks, own, peak, self.plan.device.name)
            else:
                needs[node] = Need(ranks, peak + own)
        return needs

    def folders(self) -> list[Folder]:
        """Returns the folders and buckets that the run writes to."""
        stages = [planned.stage for planned in self.plan.stages]
        checkpoints = sum(map(_num_checkpoints, stages)) + 1  # a new one is written before an old one is removed
        needed = checkpoints * self.plan.counts.trainable * MASTER_AND_MOMENTS_BYTES
        apart, ledger = self.recipe.checkpoint_folder, self.recipe.ledger_folder
        folders = [Folder("run", _existing(str(self.paths.run)), 0 if apart else needed)]
        folders += [Folder("checkpoints", _existing(apart), needed)] if apart else []
        return folders + ([Folder("ledger", _existing(ledger))] if ledger else [])

    def inputs(self) -> Inputs:
        """Returns where the inputs of the checked stages lie."""
        corpora = dict.fromkeys(name for planned in self.plan.stages for name in planned.stage.sources)
        tokens = {name: self.paths.tokens_of(name) for name in corpora}
        return Inputs(self.paths.initial_model, split_choice(self.paths.vqgan)[0], tokens)


def with_workers(recipe: Recipe, num_workers: int) -> Recipe:
    """Returns the recipe for exactly so many workers."""
    return replace(recipe, scaling=replace(recipe.scaling, num_workers=num_workers, min_workers=0))


def within(limit_s: float, function: Callable[[], T]) -> T:
    """Returns the function's result.

    Raises:
        TimeoutError: it took longer; it goes on in the background, and ends with the process.
        Exception: what it raised.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:  # raised below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {limit_s:.0f} s")
    return results[0]


def _num_checkpoints(stage: StageConfig) -> int:
    """The most checkpoints that a stage keeps."""
    every = stage.keep_every_steps
    return stage.keep_checkpoints + (stage.steps // every if every else 0)


def _existing(location: str) -> str:
    """A URL, or the folder itself or its nearest parent that exists: nothing is made that the run would make."""
    if "://" in location:
        return location.rstrip("/")
    folder = Path(location).absolute()
    return str(next(each for each in (folder, *folder.parents) if each.is_dir()))
