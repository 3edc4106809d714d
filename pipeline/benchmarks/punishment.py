"""Compares a training that is killed repeatedly with an undisturbed one: the cost, and the weights at the end."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.benchmarks.fault_injection import FaultInjector, figures_of, run_undisturbed
from pipeline.benchmarks.recovery import recovery_figures
from pipeline.config.benchmarks import KillSettings
from pipeline.config.recipe import Recipe
from pipeline.errors import InputError, UsageError
from pipeline.ledger.table import read_ledger
from pipeline.runs.commands import job_command
from pipeline.runs.paths import run_paths
from pipeline.runtime.local_cluster import LocalNodes
from pipeline.runtime.terminal import say
from tokenization.table.token_table import MANIFEST_FILE

STEPS_PER_MINUTE = 24
"""Steps of the stage per planned minute of the run with kills: in the demo they take two fifths of it, starts the
rest."""
TIMEOUT_FACTOR = 4.0
"""A run that takes this multiple of the planned minutes counts as hung."""


def benchmark_kills(
    settings: KillSettings, recipe: Recipe, recipe_name: str, root: Path, changes: Sequence[str]
) -> dict[str, Any]:
    """Trains the recipe's first stage undisturbed, then with kills, and compares.

    Args:
        settings: kinds and frequency of the kills.
        recipe, recipe_name: the recipe, and its name for `--recipe`.
        root: folder for both runs, their inputs and the nodes' files.
        changes: overrides of `--set`.

    Raises:
        UsageError: the recipe trains on GPUs.
        InputError: the inputs of the stage could not be made.
    """
    if recipe.scaling.use_gpu:
        raise UsageError(f"recipe {recipe.name!r} trains on GPUs; punish needs a recipe for CPUs, as --recipe demo")
    steps = settings.steps or max(settings.save_every_steps, int(STEPS_PER_MINUTE * settings.minutes))
    overrides = ["stages.0.log_every_steps=1", f"stages.0.steps={steps}"]
    overrides += [f"stages.0.save_every_steps={settings.save_every_steps}", "heartbeat_s=1.0"]
    overrides += ["stages.0.validate_every_steps=0", "stages.0.sample_every_steps=0", *changes]
    _make_inputs(recipe, recipe_name, root / "inputs", changes)
    folders = {name: _copied(root, name, recipe.name) for name in ("reference", "punished")}
    commands = {name: job_command("train_stage", recipe_name, root / name, overrides) for name in folders}
    nodes = LocalNodes(root / "nodes", recipe.scaling.num_cpus)
    try:
        say(f"punish: {steps} steps undisturbed")
        words = [*commands["reference"], "--stage", "1"]
        reference_s = run_undisturbed(words, nodes, root / "reference.log")
        say(f"punish: {reference_s:.0f} s; now with kills")
        injector = FaultInjector(
            [*commands["punished"], "--stage", "1"],
            nodes,
            folders["punished"] / "stage1",
            steps,
            settings.pause_s,
            settings.seed,
            lambda line: say(f"punish: {line}"),
            settings.most_kills,
        )
        try:
            injector.run(root / "punished.log", 60 * settings.minutes * TIMEOUT_FACTOR)
        finally:
            (root / "kills.jsonl").write_text("".join(json.dumps(asdict(kill)) + "\n" for kill in injector.kills))
    finally:
        nodes.stop()
    attempts = (read_ledger(folders["punished"] / "ledger").table["job"] == "train_stage").sum()
    figures = figures_of(injector, int(attempts), folders["reference"] / "stage1", reference_s)
    figures["recovery"] = recovery_figures(injector.kills, folders["punished"] / "stage1")
    for name, value in figures.items():
        say(f"punish: {name} {f'{value:.3f}' if isinstance(value, float) else value}")
    say(f"punish: the time and the process of each kill are in {root / 'kills.jsonl'}")
    return figures


def _make_inputs(recipe: Recipe, recipe_name: str, root: Path, changes: Sequence[str]) -> None:
    """Makes the inputs of the stage that are not there yet."""
    paths = run_paths(str(root), recipe)
    is_done = {
        "make_corpus": bool(recipe.corpus.path),
        "tokenize": all(Path(paths.tokens_of(name), MANIFEST_FILE).exists() for name in recipe.corpora),
        "train_lm": (paths.initial_model / "config.json").exists(),
    }
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for job in (job for job, done in is_done.items() if not done):
        say(f"punish: {job}")
        words = job_command(job, recipe_name, root, changes)
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"{job} ended with {done.returncode}: {done.stderr.strip()}")


def _copied(root: Path, name: str, recipe: str) -> Path:
    """Copies the inputs of a run's folder, and nothing else."""
    run = root / name / recipe
    if run.exists():
        shutil.rmtree(run)
    shutil.copytree(root / "inputs" / recipe, run, ignore=shutil.ignore_patterns("ledger", "stage*"))
    return run
