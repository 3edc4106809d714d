"""Trains the wanted stages of a run one after the other, each to its end."""

from dataclasses import replace

from pipeline.budget.limits import given_limits, limits_of
from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError
from pipeline.launch.attempts import check_workers, run_attempts
from pipeline.launch.extension import announce_extension, is_done
from pipeline.launch.stage import (
    StageLaunch,
    announce,
    check_unchanged,
    initial_checkpoint,
    is_finished,
    lacks_validation,
)
from pipeline.launch.stage_inputs import stage_inputs
from pipeline.runs.attempt import connect_run
from pipeline.runs.paths import RunPaths
from pipeline.runtime.machine import check_shared_memory
from pipeline.runtime.ray_connection import connect_to_ray, starts_ray_here
from pipeline.runtime.terminal import say
from pipeline.runtime.termination import Termination, recording_signals


def train_stages(
    recipe: Recipe,
    paths: RunPaths,
    wanted: str,
    chosen: str = "",
    allow_unfinished: bool = False,
    budget: tuple[str, ...] = (),
    extend: bool = False,
) -> None:
    """Trains the wanted stages that are not finished, and validates the last checkpoint of those that lack it.

    Args:
        recipe, paths: recipe and paths of the run.
        wanted: a stage number from 1, `all`, or empty for the next unfinished stage.
        chosen: checkpoint or stage folder whose weights the stage starts from; empty for the previous stage's last one.
        allow_unfinished: also accept a checkpoint of a stage that did not finish.
        budget: see `given_limits`.
        extend: go on with finished stages of which the recipe asks for more steps.

    Raises:
        UsageError: there is no such stage, or a stage's settings are impossible, here or anywhere.
        InputError: an input of a stage is missing or does not fit; or a finished stage has fewer steps than the recipe,
            and `extend` is False.
    """
    if chosen and wanted == "all":
        raise UsageError("--initial-checkpoint is for one stage; name it with --stage")
    limits = given_limits(budget)
    numbers = wanted_stages(wanted, recipe, paths, extend)
    if not numbers:
        say(f"train_stage: all {len(recipe.stages)} stages of {recipe.name!r} are finished")
    for number in numbers:
        limits_of(paths, number, limits)
        initial = initial_checkpoint(number, chosen, allow_unfinished, paths)
        inputs = stage_inputs(number, recipe, paths, initial)
        run = inputs.run
        check_unchanged(run, paths)
        if not recipe.scaling.use_gpu and starts_ray_here():
            check_shared_memory(recipe.scaling.num_workers)
        connect_run(paths, recipe.scaling.use_gpu, forks_workers=not recipe.scaling.use_gpu)
        check_workers(recipe.scaling, recipe.scaling.async_validation)
        run = inputs.stored()  # a command that is refused changes nothing
        with recording_signals() as termination:
            launch = StageLaunch(run, paths, limits, termination)
            if is_done(paths, number, extend):
                launch.validate()
            else:
                announce(run, recipe)
                announce_extension(run)
                run_attempts(launch)
        say(f"stage {number}: finished, in {run.output}")


def verify_step(
    recipe: Recipe, paths: RunPaths, wanted: str, chosen: str, allow_unfinished: bool, budget: tuple[str, ...]
) -> None:
    """Runs the next step of a stage twice on its workers and compares. Arguments as in `train_stages`.

    Raises:
        CorruptionError: the two differ.
    """
    limits = given_limits(budget)
    number = _stage_to_verify(wanted, recipe, paths)
    inputs = stage_inputs(number, recipe, paths, initial_checkpoint(number, chosen, allow_unfinished, paths))
    run = inputs.run
    check_unchanged(run, paths)
    connect_to_ray()
    check_workers(recipe.scaling)
    run = inputs.stored()
    StageLaunch(replace(run, verify_only=True), paths, limits, Termination()).attempt(recipe.scaling)


def wanted_stages(text: str, recipe: Recipe, paths: RunPaths, extend: bool) -> list[int]:
    """Returns the numbers of the stages that are to be trained, or validated; see `train_stages`.

    Raises:
        UsageError: there is no such stage.
        InputError: a finished stage has fewer steps than the recipe, and `extend` is False.
    """
    numbers = range(1, len(recipe.stages) + 1)

    def is_over(number: int) -> bool:
        return is_done(paths, number, extend) and not lacks_validation(paths, number)

    if text == "all":
        return [number for number in numbers if not is_over(number)]
    if not text:
        next_one = next((number for number in numbers if not is_done(paths, number, extend)), numbers[-1])
        return [number for number in numbers if number <= next_one and not is_over(number)]
    if not text.isdigit() or int(text) not in numbers:
        raise UsageError(f"--stage {text!r}: recipe {recipe.name!r} has the stages 1 to {len(numbers)}, or say all")
    if is_over(int(text)):
        say(f"train_stage: stage {text} is already finished in {paths.stage(int(text))}")
        return []
    return [int(text)]


def _stage_to_verify(text: str, recipe: Recipe, paths: RunPaths) -> int:
    numbers = range(1, len(recipe.stages) + 1)
    if text.isdigit() and int(text) in numbers:
        return int(text)
    if text:
        raise UsageError(f"--stage {text!r}: --verify-step takes one of the stages 1 to {len(numbers)}")
    return next((number for number in numbers if not is_finished(paths, number)), numbers[-1])
