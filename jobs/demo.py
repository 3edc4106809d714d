#!/usr/bin/env -S python -P
"""Runs a recipe from its corpus to its report, one job after the other, on one Ray cluster."""

import jobs  # noqa: F401  # isort: skip
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import ray

from jobs import report, tokenize, train_lm, train_stage
from jobs.common.cli import JobOptions, run_job
from pipeline.runtime.ray_connection import connect_to_ray
from pipeline.runtime.terminal import say
from tokenization.demo.openmoji import ATTRIBUTION

STARTED = time.monotonic()


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `demo`."""


def main(options: Options) -> None:
    """Every job does what is not done yet, so an interrupted demo goes on where it stopped."""
    _, paths = options.resolve()
    resumed = paths.run.exists()
    connect_to_ray()
    flags = vars(options)
    for name, job in (
        ("corpus and tokens", lambda: tokenize.main(tokenize.Options(**flags))),
        ("language expert", lambda: train_lm.main(train_lm.Options(**flags))),
        ("training", lambda: train_stage.main(train_stage.Options(**flags, stage="all"))),
        ("generation", lambda: run_apart("generate.py", options)),
        ("evaluation", lambda: run_apart("evaluate.py", options)),
    ):
        say(f"--- {name} ({time.monotonic() - STARTED:.0f} s)")
        job()
    metrics_path = paths.run / "metrics.json"
    metrics = json.loads(metrics_path.read_text())
    metrics |= {"seconds": round(time.monotonic() - STARTED, 1), "resumed": resumed}
    metrics_path.write_text(json.dumps(metrics, indent=2, ensure_ascii=False))
    report.main(report.Options(**flags))
    say(f"--- done in {metrics['seconds']:.0f} s. {ATTRIBUTION}")
    for made in ("report.html", "metrics.json", "samples/grid.png", "samples/vq_sheet.png", "export"):
        say(f"    {paths.run / made}")


def run_apart(script: str, options: Options) -> None:
    """Runs a job in processes of its own, so that scores owe nothing to what training left in memory.

    Raises:
        SystemExit: the job failed; with its exit code.
    """
    flags = ["--recipe", options.recipe, *(part for override in options.set for part in ("--set", override))]
    if options.root:
        flags += ["--root", options.root]
    command = [sys.executable, "-P", str(Path(__file__).with_name(script)), *flags]
    address = ray.get_runtime_context().gcs_address
    code = subprocess.run(command, env=os.environ | {"RAY_ADDRESS": address}, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
