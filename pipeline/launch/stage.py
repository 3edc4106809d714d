"""One stage on Ray: its initial checkpoint, and an attempt at it."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.budget.limits import limits_of
from pipeline.checkpoints.identity import check_identity
from pipeline.checkpoints.manifest import Checkpoint, finished_checkpoint, newest_complete
from pipeline.config.recipe import Recipe
from pipeline.config.scaling import ScalingConfig
from pipeline.data.sample_order import MixedOrder
from pipeline.errors import InputError, OutageError
from pipeline.launch.async_validation import validating_beside
from pipeline.launch.attempts import watching_attempt
from pipeline.launch.extension import check_extension
from pipeline.launch.monitor import StageMonitor
from pipeline.launch.ray_train import run_worker_group, worker_group
from pipeline.launch.stage_worker import StageWorker
from pipeline.runs.attempt import ledger_attempt
from pipeline.runs.paths import RunPaths
from pipeline.runs.stage_recipe import RECIPE_FILE, read_stage_recipe, write_stage_recipe
from pipeline.runtime.actors import actor_here
from pipeline.runtime.messages import relaying_messages
from pipeline.runtime.terminal import say, say_error
from pipeline.runtime.termination import Termination
from pipeline.step_figures import read_step_figures, read_validations
from pipeline.training.stage_run import StageRun
from pipeline.weights.start_file import is_starting_model
from tokenization.table.queries import non_number_messages

WORTH_A_STARTING_MODEL = 2e9
"""Size of a language expert, in bytes, above which a starting model is recommended."""


def initial_checkpoint(number: int, chosen: str, allow_unfinished: bool, paths: RunPaths) -> Checkpoint | None:
    """Returns the checkpoint whose weights stage `number` starts from.

    Args:
        number: number of the stage, from 1.
        chosen: a checkpoint or a stage's folder; empty for the last checkpoint of the previous stage.
        allow_unfinished: accept a stage that did not finish.
        paths: paths of the run.

    Returns:
        None for the first stage, and if the previous stage is gone but this one has a checkpoint of its own.
    """
    if not chosen and number == 1:
        return None
    location = chosen or paths.checkpoints(number - 1)
    try:
        return finished_checkpoint(location if "://" in location else Path(location).absolute(), allow_unfinished)
    except InputError:
        if chosen or newest_complete(paths.checkpoints(number)) is None:
            raise
        return None


def is_finished(paths: RunPaths, number: int) -> bool:
    """True if the stage has its last checkpoint."""
    found = newest_complete(paths.checkpoints(number))
    return found is not None and found.manifest.finished


def lacks_validation(paths: RunPaths, number: int) -> bool:
    """True if a finished stage was validated beside its training, but not its last checkpoint: the job ended before."""
    newest, output = newest_complete(paths.checkpoints(number)), paths.stage(number)
    if newest is None or not newest.manifest.finished or not (output / RECIPE_FILE).exists():
        return False
    try:
        was = read_stage_recipe(output)
    except InputError:  # written by a version that did not validate beside the training
        return False
    held_out = any(source.held_out for source in paths.recipe.stages[number - 1].sources.values())
    if not (was.scaling.async_validation and held_out):
        return False
    return newest.name not in {each.checkpoint for each in read_validations(output)}


def check_unchanged(run: StageRun, paths: RunPaths) -> None:
    """Checks before any worker starts that the stage can go on from its newest checkpoint. The workers check the rest.

    Raises:
        InputError: the checkpoint was made with other settings, or it is not where the recipe says.
    """
    if newest := newest_complete(run.checkpoints):
        check_extension(run, newest)
        check_identity(newest, {"recipe_sha256": run.recipe_sha256}, run.extends_sha256)
    else:
        _check_not_moved(run, paths)


def _check_not_moved(run: StageRun, paths: RunPaths) -> None:
    """Checks that a stage without a checkpoint is one that has not come to its first, as far as its folder tells."""
    begins = f"stage {run.stage_number} would begin anew: there is no checkpoint in {run.checkpoints!r}"
    anew = f"to begin anew, remove {str(run.output)!r}"
    if (run.output / RECIPE_FILE).exists():
        before = RunPaths(paths.run, read_stage_recipe(run.output)).checkpoints(run.stage_number)
        if before != run.checkpoints and newest_complete(before):
            raise InputError(
                f"{begins}, but there are some in {before!r}, where it wrote them before; undo the change of "
                f"checkpoint_folder, or copy them there; {anew}"
            )
    done = max((figures.step for figures in read_step_figures(run.output)), default=0)
    # In the run's own folder nobody moves them; what is damaged there may be moved away.
    if paths.recipe.checkpoint_folder and done > 2 * run.stage.save_every_steps:
        raise InputError(
            f"{begins}, but it has trained {done:,} steps; where its checkpoints have moved, name their folder with "
            f"checkpoint_folder; {anew}"
        )


@dataclass(frozen=True)
class StageLaunch:
    """One stage of a run that is trained in attempts; see `pipeline.launch.attempts`.

    Attributes:
        run: inputs of the workers.
        paths: paths of the run.
        budget: GPU-days by scope, as `given_limits` returns them.
        termination: tells if the job was asked to end.
    """

    run: StageRun
    paths: RunPaths
    budget: dict[str, float]
    termination: Termination

    @property
    def scaling(self) -> ScalingConfig:
        return self.paths.recipe.scaling

    def attempt(self, scaling: ScalingConfig) -> None:
        """Runs one attempt, with ledger rows of its own."""
        run, number, began_at = self.run, self.run.stage_number, time.time()
        limits = limits_of(self.paths, number, self.budget)
        with ledger_attempt(self.paths, "train_stage", scaling.use_gpu, str(number), limits) as ledger:
            monitor = actor_here(StageMonitor).remote(self.paths.recipe.name, number, run.stage, run.output, ledger)
            # Ray Train resumes a run whose name it knows.
            name = f"stage{number}-{os.urandom(4).hex()}"
            group = worker_group(StageWorker(run, monitor, began_at), scaling, name, run.output / "ray_train")
            termination, most = self.termination, self.scaling.num_workers
            with (
                validating_beside(run, scaling, termination) as validates,
                relaying_messages(monitor),
                watching_attempt(monitor, termination, scaling, most, validates),
            ):
                run_worker_group(group)

    def validate(self) -> None:
        """Validates the last checkpoint of a stage that is finished, with a row of its own in the ledger."""
        number, scaling = self.run.stage_number, replace(self.scaling, async_validation=True)
        limits = limits_of(self.paths, number, self.budget)
        with (
            ledger_attempt(self.paths, "train_stage", scaling.use_gpu, str(number), limits),
            validating_beside(self.run, scaling, self.termination),
        ):
            self.log("finished before; its last checkpoint is validated now")

    def saved_step(self) -> int:
        """Step of the newest checkpoint, or 0 if there is none or the storage does not answer."""
        try:
            newest = newest_complete(self.run.checkpoints)
        except OutageError:
            return 0
        return newest.manifest.step if newest else 0

    def log(self, line: str) -> None:
        say(f"stage {self.run.stage_number}: {line}")


def announce(run: StageRun, recipe: Recipe) -> None:
    """Writes the recipe into the stage's folder and logs what will be trained."""
    stage, number, scaling = run.stage, run.stage_number, recipe.scaling
    write_stage_recipe(run.output, recipe)
    say(f"stage {number}: {stage.purpose}")
    by_source = MixedOrder([], [each.weight for each in run.sources], stage.global_batch_size).taken(stage.steps)
    for source, samples in zip(run.sources, by_source, strict=True):
        rows = int(source.index.counts.sum())
        longer = f"; {source.index.num_too_long:,} documents longer than seq_len {stage.seq_len} are left out"
        say(
            f"stage {number}: {source.name}: {rows:,} rows, {samples:,} samples ({samples / rows:.1f} epochs)"
            + (longer if source.index.num_too_long else "")
        )
        for message in non_number_messages(source.index.not_numbers, f"`where` of source {source.name!r}"):
            say_error(message)
    say(
        f"stage {number}: {stage.steps} steps of {stage.global_batch_size} samples, "
        f"{scaling.num_workers} {'GPU' if scaling.use_gpu else 'CPU'} workers, ZeRO-{recipe.zero.zero_stage}"
    )
    if run.initial_checkpoint:
        say(f"stage {number}: starts from the weights of {run.initial_checkpoint}")
    if recipe.zero.zero_stage == 3 and not is_starting_model(run.initial_model):
        _warn_of_whole_load(number, run.initial_model)


def _warn_of_whole_load(number: int, folder: Path) -> None:
    files = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
    whole_bytes = sum(path.stat().st_size for path in files)
    if whole_bytes > WORTH_A_STARTING_MODEL:
        say(
            f"stage {number}: each worker loads the whole language expert, {whole_bytes / 1e9:.1f} GB, and makes the "
            "visual one of it, before it is partitioned; jobs/init_model.py makes a starting model of which each reads "
            "its own part"
        )
