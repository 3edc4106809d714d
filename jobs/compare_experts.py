#!/usr/bin/env -S python -P
"""Why two experts: trains the stage's data with SemVIE and with one shared expert, and shows both side by side.

Losses by task over the steps, and how far the text logits drift from the base's on captions that no stage trained on.
Needs the run's tokens and language expert; its stages are left alone. Writes experts/ in the run's folder.
"""

import jobs  # noqa: F401  # isort: skip

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import matplotlib
import pandas as pd
import ray
import torch

from jobs.common.cli import JobOptions, run_job
from pipeline.errors import InputError, UsageError
from pipeline.evaluation.expert_comparison import EXPERTS, Comparison, train_experts
from pipeline.evaluation.held_out import held_out_captions
from pipeline.launch.stage_inputs import stage_run
from pipeline.reports.experts_table import NAMES, PLOT_FILE, RECORDS_FILE, SUMMARY_FILE, experts_folder, experts_table
from pipeline.runs.attempt import ledger_attempt
from pipeline.runtime.messages import Messages, relaying_messages
from pipeline.runtime.placement import actor_here, reserved
from pipeline.runtime.ray_connection import connect_to_ray
from pipeline.runtime.terminal import say

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DRIFT = ("mean_kl", "max_abs_diff", "perplexity")
LAST_STEPS = 20
"""The losses in the table are means over so many last steps."""


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `compare_experts`."""

    steps: int = 200
    """Optimizer steps of each."""
    texts: int = 128
    """Held-out captions to measure the drift on."""
    stage: int = 1
    """Whose rows, tasks, batches and learning rates are used."""
    json: bool = False
    """Print the figures as one JSON object, last."""


def main(options: Options) -> dict[str, Any]:
    """Trains both, one after the other, and writes records, figures and a plot."""
    recipe, paths = options.resolve()
    for name in ("steps", "texts"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is {getattr(options, name)}, it must be at least 1")
    if not 1 <= options.stage <= len(recipe.stages):
        raise UsageError(f"--stage {options.stage}: recipe {recipe.name!r} has the stages 1 to {len(recipe.stages)}")
    run = stage_run(options.stage, recipe, paths, initial=None)
    stage = replace(
        run.stage,
        steps=options.steps,
        warmup_steps=min(run.stage.warmup_steps, -(-options.steps // 4)),
        task_weights=run.stage.task_weights | {"plain_text": 0.0},  # the shared expert would learn language from it
    )
    texts = held_out_captions(recipe, paths, options.texts)
    if not texts:
        raise InputError("the stages train on every row of the corpus, so no text is held out to measure the drift on")
    comparison = Comparison(replace(run, stage=stage), texts)
    say(f"experts: {options.steps} steps of {stage.global_batch_size} samples each, drift on {len(texts)} captions")
    connect_to_ray()
    use_gpu = recipe.scaling.use_gpu
    cpus = max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
    with ledger_attempt(paths, "compare_experts", use_gpu) as ledger:
        messages = actor_here(Messages).remote()
        # A process of its own for each: neither inherits what the other left behind.
        train: Any = ray.remote(num_cpus=cpus, num_gpus=1 if use_gpu else 0, max_calls=1)(_train)
        records: list[dict[str, Any]] = []
        with relaying_messages(messages), reserved(cpus, int(use_gpu), together=True) as strategy:
            ledger.working.remote()
            train = train.options(scheduling_strategy=strategy)
            for experts in EXPERTS:
                records.extend(ray.get(train.remote(experts, comparison, cpus, messages)))
                ledger.add.remote(steps=options.steps, samples=options.steps * stage.global_batch_size)
    folder = experts_folder(paths)
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(records)
    table.to_json(folder / RECORDS_FILE, orient="records", lines=True)
    figures = {"steps": options.steps, "held_out_texts": len(texts), "stage": asdict(stage)} | summary(table)
    (folder / SUMMARY_FILE).write_text(json.dumps(figures, indent=2, ensure_ascii=False))
    plot(table).savefig(folder / PLOT_FILE, dpi=110)
    for line in experts_table(figures).to_string(index=False).splitlines():
        say(f"experts: {line}")
    say(f"experts: records, figures and {PLOT_FILE} are in {folder}")
    return {name: value for name, value in figures.items() if name != "stage"}


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """The figures of each of `EXPERTS`: losses of the last steps, the drift at the end, the base's perplexity."""
    found: dict[str, Any] = {}
    for experts, records in table.groupby("experts", sort=False):
        measured = records[records["mean_kl"].notna()].iloc[-1]
        losses = records[_losses(table)].tail(LAST_STEPS).mean()
        found[str(experts)] = losses.dropna().to_dict() | {name: float(measured[name]) for name in DRIFT}
        found["base_perplexity"] = float(measured["base_perplexity"])
    return found


def plot(table: pd.DataFrame) -> plt.Figure:
    """Loss of each task, KL divergence and perplexity of held-out text, over the steps."""
    losses = [name for name in _losses(table) if name not in ("loss/opener", "loss/plain_text")]
    panels = {name: f"{name[5:].replace('_', ' ')}, nats a label" for name in losses}
    panels |= {"mean_kl": "text: KL from the base, nats an id", "perplexity": "text: perplexity, held-out captions"}
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.2))
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        for experts, records in table.groupby("experts", sort=False):
            line = records[records[column].notna()]
            smooth = line[column].rolling(10, min_periods=1).mean() if column in losses else line[column]
            axis.plot(line["step"], smooth, label=NAMES[str(experts)], marker="" if column in losses else ".")
        axis.set(title=title, xlabel="step")
        axis.title.set_fontsize(9)
    axes[-1].set_yscale("log")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def _losses(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table if str(name).startswith("loss/")]


def _train(experts: str, comparison: Comparison, num_threads: int, messages: Any) -> list[dict[str, Any]]:
    torch.set_num_threads(num_threads)
    every = comparison.run.stage.log_every_steps

    def report(record: dict[str, Any]) -> None:
        if record["step"] % every == 0 or "mean_kl" in record:
            figures = "  ".join(
                f"{name.removeprefix('loss/')} {value:.4g}"
                for name, value in record.items()
                if name.startswith("loss/") or name in DRIFT
            )
            ray.get(messages.log.remote(f"{NAMES[experts]}  step {record['step']}  {figures}"))

    return train_experts(experts, comparison, report)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
