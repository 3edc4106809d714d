#!/usr/bin/env -S python -P
"""Runs a recipe from its corpus to its report, one job after the other, on one Ray cluster."""

import jobs  # noqa: F401  # isort: skip
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from jobs.common.cli import JobOptions, run_job
from pipeline.runs.commands import job_command
from pipeline.runtime.terminal import say

STARTED = time.monotonic()


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `demo`."""


def main(options: Options) -> None:
    """Each part skips finished work, so an interrupted demo resumes."""
    from pipeline.demo.corpora import attribution_of
    from pipeline.launch.curriculum import train_stages
    from pipeline.launch.language_expert import make_language_expert
    from pipeline.launch.tokenization import check_shards, tokenize_corpora
    from pipeline.reports.run_report import write_report
    from pipeline.runtime.ray_connection import connect_to_ray

    recipe, paths = options.resolve()
    resumed = paths.run.exists()
    connect_to_ray()
    parts = {
        "corpus and tokens": lambda: check_shards(tokenize_corpora(recipe, paths, list(recipe.corpora))),
        "language expert": lambda: make_language_expert(recipe, paths),
        "training": lambda: train_stages(recipe, paths, "all"),
        "generation": lambda: run_apart("generate", options),
        "evaluation": lambda: run_apart("evaluate", options),
    }
    if recipe.language_expert_folder:
        del parts["language expert"]  # it is trained already
    for name, part in parts.items():
        say(f"--- {name} ({time.monotonic() - STARTED:.0f} s)")
        part()
    metrics_path = paths.run / "metrics.json"
    metrics = json.loads(metrics_path.read_text())
    metrics |= {"seconds": round(time.monotonic() - STARTED, 1), "resumed": resumed}
    metrics_path.write_text(json.dumps(metrics, indent=2, ensure_ascii=False))
    say(f"report: {write_report(recipe, paths)}")
    say(f"--- done in {metrics['seconds']:.0f} s. {attribution_of(recipe.corpus)}")
    for made in ("report.html", "metrics.json", "samples/grid.png", "samples/vq_sheet.png", "export"):
        say(f"    {paths.run / made}")


def run_apart(job: str, options: Options) -> None:
    """Runs a job in a process of its own, so that scores cannot depend on state that training left in memory.

    Raises:
        SystemExit: the job failed; with its exit code.
    """
    import ray

    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = job_command(job, options.recipe, options.root, options.set)
    if code := subprocess.run(command, env=environment, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
