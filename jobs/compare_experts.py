#!/usr/bin/env -S python -P
"""Compares two experts with one: trains SemVIE and one shared expert on the stage's data, and shows the figures of
both.

The figures are losses by task over the steps, and the drift of the text logits from the base's on captions that no
stage trained on. It needs the run's tokens and language expert, does not touch its stages, and writes experts/ in the
run's folder.
"""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from typing import Any

from jobs.common.cli import JobOptions, at_least, run_job
from pipeline.errors import UsageError
from pipeline.runtime.terminal import say


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `compare_experts`."""

    steps: int = 200
    """Optimizer steps of each model."""
    texts: int = 128
    """Held-out captions to measure the drift on."""
    stage: int = 1
    """Stage whose rows, tasks, batches and learning rates are used."""
    json: bool = False
    """Print the figures as one JSON object, last."""


def main(options: Options) -> dict[str, Any]:
    from pipeline.evaluation.expert_runs import comparison_of, run_comparison
    from pipeline.reports.experts_report import PLOT_FILE, experts_folder, experts_table, write_comparison

    recipe, paths = options.resolve()
    at_least(options, steps=1, texts=1)
    if not 1 <= options.stage <= len(recipe.stages):
        raise UsageError(f"--stage {options.stage}: recipe {recipe.name!r} has the stages 1 to {len(recipe.stages)}")
    comparison = comparison_of(recipe, paths, options.stage, options.steps, options.texts)
    figures = write_comparison(paths, comparison, run_comparison(recipe, paths, comparison))
    for line in experts_table(figures).to_string(index=False).splitlines():
        say(f"experts: {line}")
    say(f"experts: records, figures and {PLOT_FILE} are in {experts_folder(paths)}")
    return {name: value for name, value in figures.items() if name != "stage"}


if __name__ == "__main__":
    run_job(Options, main, __doc__)
