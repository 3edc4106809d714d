"""`jobs/benchmark.py punish`: what a training that is killed again and again costs, and whether it ends the same."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.common.cli import JobOptions
from pipeline.benchmarks.fault_injection import FaultInjector, figures_of, run_undisturbed
from pipeline.errors import InputError, UsageError
from pipeline.ledger.rows import read_ledger
from pipeline.runs.paths import PROJECT, checkout
from pipeline.runtime.local_cluster import LocalNodes
from pipeline.runtime.terminal import say

STEPS_PER_MINUTE = 24
"""Of the stage, by the minutes that the punished run is to take: in the demo two fifths of it, the rest are starts."""
TIMEOUT_FACTOR = 4.0
"""A run that takes so many times the minutes has hung."""
INPUTS = ("make_corpus", "tokenize", "train_lm")


@dataclass(frozen=True)
class Punish(JobOptions):
    """Trains the recipe's first stage twice on a cluster of local nodes: undisturbed, and while workers, nodes and the
    driver are killed with SIGKILL at random, some of them while a checkpoint is written. Says what that cost, and if
    both end with the same weights and moments, bit for bit. Stops no other cluster of the machine."""

    json: bool = False
    """Print the figures as one JSON object on the last line."""
    minutes: float = 15.0
    """What the punished run is to take, about. The undisturbed one comes on top, and before it the recipe's inputs."""
    seed: int = 0
    """Of what is killed, and when."""
    steps: int = 0
    """Steps of the stage; 0: 24 for each of the minutes."""
    save_every_steps: int = 10
    """Steps between two checkpoints."""
    pause_s: float = 60.0
    """Seconds from one kill to the next, on average; a kill in the midst of a checkpoint may come later."""
    most_kills: int = 10_000
    """No more than so many."""


def punish(options: Punish) -> dict[str, Any]:
    """Runs both, and compares."""
    for name in ("minutes", "save_every_steps", "most_kills", "pause_s"):
        if getattr(options, name) <= 0:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(options, name)}, it must be above 0")
    recipe, _ = options.resolve()
    if recipe.scaling.use_gpu:
        raise UsageError(f"recipe {recipe.name!r} trains on GPUs; punish runs on nodes without, as in --recipe demo")
    steps = options.steps or max(options.save_every_steps, int(STEPS_PER_MINUTE * options.minutes))
    root = Path(options.root or checkout() / "runs").absolute() / "punish"
    overrides = ["stages.0.log_every_steps=1", f"stages.0.steps={steps}"]
    overrides += [f"stages.0.save_every_steps={options.save_every_steps}", "heartbeat_s=1.0"]
    overrides += ["stages.0.validate_every_steps=0", "stages.0.sample_every_steps=0", *options.set]
    _make_inputs(options, root)
    folders = {name: _copied(root, name, recipe.name) for name in ("reference", "punished")}
    commands = {name: _command("train_stage", options.recipe, root / name, overrides) for name in folders}
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
            options.pause_s,
            options.seed,
            lambda line: say(f"punish: {line}"),
            options.most_kills,
        )
        try:
            injector.run(root / "punished.log", 60 * options.minutes * TIMEOUT_FACTOR)
        finally:
            (root / "kills.jsonl").write_text("".join(json.dumps(asdict(kill)) + "\n" for kill in injector.kills))
    finally:
        nodes.stop()
    attempts = (read_ledger(folders["punished"] / "ledger").table["job"] == "train_stage").sum()
    figures = figures_of(injector, int(attempts), folders["reference"] / "stage1", reference_s)
    for name, value in figures.items():
        say(f"punish: {name} {f'{value:.3f}' if isinstance(value, float) else value}")
    say(f"punish: when which process was killed stands in {root / 'kills.jsonl'}")
    return figures


def _command(job: str, recipe: str, root: Path, overrides: list[str]) -> list[str]:
    words = [sys.executable, "-P", str(PROJECT / "jobs" / f"{job}.py"), "--recipe", recipe, "--root", str(root)]
    return words + [word for each in overrides for word in ("--set", each)]


def _make_inputs(options: Punish, root: Path) -> None:
    """What the stage trains on, once."""
    recipe, _ = options.resolve()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for job in INPUTS:
        if job == "make_corpus" and recipe.corpus.path:
            continue
        say(f"punish: {job}, where it is not done yet")
        words = _command(job, options.recipe, root / "inputs", list(options.set))
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"{job} ended with {done.returncode}: {done.stderr.strip()}")


def _copied(root: Path, name: str, recipe: str) -> Path:
    """A run's folder with the inputs and nothing else."""
    run = root / name / recipe
    if run.exists():
        shutil.rmtree(run)
    shutil.copytree(root / "inputs" / recipe, run, ignore=shutil.ignore_patterns("ledger", "stage*"))
    return run
