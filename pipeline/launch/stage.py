"""Training one stage to its end, attempt after attempt."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pipeline.budget.limits import limits_of
from pipeline.checkpoints.manifest import Checkpoint, finished_checkpoint, newest_complete
from pipeline.config.recipe import Recipe
from pipeline.config.scaling import ScalingConfig
from pipeline.data.sample_order import MixedOrder
from pipeline.errors import InputError, OutageError
from pipeline.launch.attempts import run_attempts, watch_attempt
from pipeline.launch.monitor import StageMonitor
from pipeline.launch.ray_train import run_stage
from pipeline.launch.stage_inputs import stage_run
from pipeline.runs.attempt import ledger_attempt
from pipeline.runs.paths import RunPaths
from pipeline.runtime.messages import relaying_messages
from pipeline.runtime.placement import actor_here, say_what_is_short
from pipeline.runtime.ray_connection import connect_to_ray
from pipeline.runtime.terminal import say
from pipeline.runtime.termination import Termination, termination
from pipeline.training.stage_run import StageRun
from pipeline.weights.start_file import is_starting_model

WORTH_A_STARTING_MODEL = 2e9
"""Bytes of a language expert."""


def initial_checkpoint(number: int, chosen: str, allow_unfinished: bool, paths: RunPaths) -> Checkpoint | None:
    """The checkpoint whose weights stage `number` starts from.

    Args:
        number: of the stage, from 1.
        chosen: a checkpoint or a stage's folder; empty for the last checkpoint of the stage before.
        allow_unfinished: accept a stage that did not finish.
        paths: of the run.

    Returns:
        None for the first stage, and where the stage before is gone but this one has a checkpoint of its own.
    """
    if not chosen and number == 1:
        return None
    place = chosen or paths.checkpoints(number - 1)
    try:
        return finished_checkpoint(place if "://" in place else Path(place).absolute(), allow_unfinished)
    except InputError:
        if chosen or newest_complete(paths.checkpoints(number)) is None:
            raise
        return None


def is_finished(paths: RunPaths, number: int) -> bool:
    """Whether the stage has its last checkpoint."""
    found = newest_complete(paths.checkpoints(number))
    return found is not None and found.manifest.finished


def train(number: int, recipe: Recipe, paths: RunPaths, initial: Checkpoint | None, budget: dict[str, float]) -> None:
    """Trains stage `number` to its end, in as many attempts as it takes.

    Args:
        number: of the stage, from 1.
        recipe, paths: of the run.
        initial: the checkpoint whose weights it starts from.
        budget: GPU-days by scope, as `given_limits` has them.
    """
    run = stage_run(number, recipe, paths, initial)
    stage, output = run.stage, paths.stage(number)
    output.mkdir(parents=True, exist_ok=True)
    (output / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2, ensure_ascii=False))
    scaling = recipe.scaling
    say(f"stage {number}: {stage.purpose}")
    taken = MixedOrder([], [each.weight for each in run.sources], stage.global_batch_size).taken(stage.steps)
    for source, samples in zip(run.sources, taken, strict=True):
        rows = int(source.index.counts.sum())
        longer = f"; {source.index.num_too_long:,} documents longer than seq_len {stage.seq_len} are left out"
        say(
            f"stage {number}: {source.name}: {rows:,} rows, {samples:,} samples ({samples / rows:.1f} epochs)"
            + (longer if source.index.num_too_long else "")
        )
    say(
        f"stage {number}: {stage.steps} steps of {stage.global_batch_size} samples, "
        f"{scaling.num_workers} {'GPU' if scaling.use_gpu else 'CPU'} workers, ZeRO-{recipe.zero.zero_stage}"
    )
    if initial:
        say(f"stage {number}: starts from the weights of {initial}")
    if recipe.zero.zero_stage == 3 and not is_starting_model(run.base):
        _say_what_is_loaded_whole(number, run.base)
    connect_to_ray()
    with termination() as known:
        one = partial(attempt, run, paths, known, budget)
        run_attempts(one, scaling, partial(_saved_step, run), known, partial(_say_of, number))
    say(f"stage {number}: finished, in {output}")


def _say_what_is_loaded_whole(number: int, base: Path) -> None:
    files = [*base.glob("*.safetensors")] or [*base.glob("*.bin")]
    whole_bytes = sum(path.stat().st_size for path in files)
    if whole_bytes > WORTH_A_STARTING_MODEL:
        say(
            f"stage {number}: each worker loads the whole language expert, {whole_bytes / 1e9:.1f} GB, and makes the "
            "visual one of it, before it is partitioned; jobs/init_model.py makes a starting model of which each reads "
            "its own part"
        )


def _saved_step(run: StageRun) -> int:
    try:
        newest = newest_complete(run.checkpoints)
    except OutageError:  # no progress is known of
        return 0
    return newest.manifest.step if newest else 0


def _say_of(number: int, line: str) -> None:
    say(f"stage {number}: {line}")


def attempt(
    run: StageRun,
    paths: RunPaths,
    known: Termination,
    budget: dict[str, float],
    scaling: ScalingConfig,
) -> None:
    """One attempt, with rows of its own in the ledger."""
    limits = limits_of(paths, run.stage_number, budget)
    with ledger_attempt(paths, "train_stage", scaling.use_gpu, str(run.stage_number), limits) as ledger:
        monitor = actor_here(StageMonitor).remote(paths.recipe.name, run.stage_number, run.stage, run.output, ledger)
        say_what_is_short(scaling.num_cpus, scaling.num_gpus)
        with relaying_messages(monitor), watch_attempt(monitor, known, scaling, paths.recipe.scaling.num_workers):
            run_stage(run, scaling, monitor)
