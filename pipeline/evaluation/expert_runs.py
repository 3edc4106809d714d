"""Runs the comparison of two experts with one on Ray, on the data of one stage."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.actor import ActorProxy

from pipeline.config.recipe import Recipe
from pipeline.errors import InputError
from pipeline.evaluation.expert_comparison import EXPERTS, Comparison, train_experts
from pipeline.evaluation.held_out import held_out_captions
from pipeline.launch.stage_inputs import stage_inputs
from pipeline.ledger.account import Counts
from pipeline.runs.attempt import connect_run, ledger_attempt
from pipeline.runs.paths import RunPaths
from pipeline.runtime.actors import actor_here
from pipeline.runtime.messages import Messages, relaying_messages
from pipeline.runtime.placement import reserved
from pipeline.runtime.terminal import say

NAMES = {"two": "two experts (SemVIE)", "shared": "one shared expert"}
DRIFT = ("mean_kl", "max_abs_diff", "perplexity")


def comparison_of(recipe: Recipe, paths: RunPaths, stage_number: int, steps: int, num_texts: int) -> Comparison:
    """Returns the settings of both trainings: a stage's rows, tasks, batches and learning rates, for `steps` steps.

    Raises:
        InputError: see `stage_inputs`; or there is no held-out caption to measure the drift on.
    """
    run = stage_inputs(stage_number, recipe, paths, initial=None).run
    stage = replace(
        run.stage,
        steps=steps,
        warmup_steps=min(run.stage.warmup_steps, -(-steps // 4)),
        task_weights=run.stage.task_weights | {"plain_text": 0.0},  # the shared expert would learn language from it
    )
    texts = held_out_captions(recipe, paths, num_texts)
    if not texts:
        raise InputError(
            "the stages, or the language expert that was trained for them, have seen every row of the corpus, so no "
            "text is left to measure the drift on; hold rows out with the sources' `where` or `held_out`, and with "
            "`language_expert.where`"
        )
    return Comparison(replace(run, stage=stage), texts)


def run_comparison(recipe: Recipe, paths: RunPaths, comparison: Comparison) -> list[dict[str, Any]]:
    """Trains one after the other. Returns the records of both; see `train_experts`."""
    stage, use_gpu = comparison.run.stage, recipe.scaling.use_gpu
    say(
        f"experts: {stage.steps} steps of {stage.global_batch_size} samples each, "
        f"drift on {len(comparison.texts)} captions"
    )
    connect_run(paths, use_gpu)
    cpus = max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
    records: list[dict[str, Any]] = []
    with ledger_attempt(paths, "compare_experts", use_gpu) as ledger:
        messages = actor_here(Messages).remote()
        # Each runs in a process of its own, so that neither inherits state of the other.
        train: Any = ray.remote(num_cpus=cpus, num_gpus=1 if use_gpu else 0, max_calls=1)(_train)
        with relaying_messages(messages), reserved(cpus, int(use_gpu), together=True) as strategy:
            ledger.working.remote()
            train = train.options(scheduling_strategy=strategy)
            for experts in EXPERTS:
                records.extend(ray.get(train.remote(experts, comparison, cpus, messages)))
                ledger.add.remote(Counts(steps=stage.steps, samples=stage.steps * stage.global_batch_size))
    return records


def _train(
    experts: str, comparison: Comparison, num_threads: int, messages: ActorProxy[Messages]
) -> list[dict[str, Any]]:
    torch.set_num_threads(num_threads)
    return train_experts(experts, comparison, _reporter(experts, comparison.run.stage.log_every_steps, messages))


def _reporter(experts: str, every_steps: int, messages: ActorProxy[Messages]) -> Callable[[dict[str, Any]], None]:
    def report(record: dict[str, Any]) -> None:
        if record["step"] % every_steps == 0 or "mean_kl" in record:
            figures = "  ".join(
                f"{name.removeprefix('loss/')} {value:.4g}"
                for name, value in record.items()
                if name.startswith("loss/") or name in DRIFT
            )
            ray.get(messages.log.remote(f"{NAMES[experts]}  step {record['step']}  {figures}"))

    return report
