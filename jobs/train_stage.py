#!/usr/bin/env -S python -P
"""Trains the stages of the curriculum on Ray Train and DeepSpeed ZeRO-3."""

import jobs  # noqa: F401  # isort: skip

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from jobs.common.cli import JobOptions, run_job
from jobs.common.recipes import load_recipe
from pipeline.config.gpus import ASSUMED_MFU
from pipeline.errors import UsageError


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `train_stage`."""

    stage: str = ""
    """Stage to train, from 1, or `all`. Default: the next unfinished one; for a dry run, all."""
    initial_checkpoint: str = ""
    """Checkpoint or stage folder whose weights a stage starts from. Default: the previous stage's last checkpoint."""
    allow_unfinished: bool = False
    """Also accept a stage that did not finish as the start."""
    budget_gpu_days: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="[SCOPE=]DAYS")] = ()
    """Limit in GPU-days (CPU-days if no GPU trains) for all attempts at the stage, as in 300 or stage=300, or for all
    jobs of the run, as in run=587. May be repeated. The job warns at 80% and 95%; at 100% it writes a checkpoint and
    ends with exit code 5. The ledger keeps the limit; 0 removes it. Default: the previous attempt's limit."""
    extend: bool = False
    """Go on with a finished stage whose `steps` have grown in the recipe, from its last checkpoint. Nothing else may
    have changed."""
    verify_step: bool = False
    """Run the stage's next step twice on its workers and compare, instead of training. Nothing is trained. Exit code 1
    if they differ, which means that a node computes wrongly."""
    dry_run: bool = False
    """Only plan: print the resolved recipe, batches, memory, FLOP and GPU-days, or why the recipe is impossible."""
    json: bool = False
    """With --dry-run: print the plan as one JSON object on the last line."""
    gpu: str = ""
    """With --dry-run: GPU model to plan on, as in A100-80GB, instead of the recipe's."""
    mfu: float = ASSUMED_MFU
    """With --dry-run: share of the GPU's peak to assume."""
    cluster: str = ""
    """With --dry-run: cluster file, as in cluster/aws_a100.yaml, to print the nodes that the stage will ask for. Exit
    code 2 if it can never get them."""


def main(options: Options) -> dict[str, Any] | None:
    """Trains the named stage, or the next unfinished one, or only shows the plan."""
    if options.dry_run:
        from pipeline.reports.dry_run import dry_run

        plan_on = (options.gpu, options.mfu)
        recipe, before = load_recipe(options.recipe, options.set), load_recipe(options.recipe)
        return dry_run(recipe, before, options.stage, *plan_on, options.json, options.cluster)
    if options.json or options.gpu or options.cluster or options.mfu != ASSUMED_MFU:
        raise UsageError(
            "--json, --gpu, --mfu and --cluster are for a dry run; add --dry-run, or leave them out to train"
        )
    recipe, paths = options.resolve()
    if not recipe.stages:
        raise UsageError(f"recipe {recipe.name!r} has no stages")

    from pipeline.launch.curriculum import train_stages, verify_step

    start = (options.stage, options.initial_checkpoint, options.allow_unfinished, options.budget_gpu_days)
    if options.verify_step:
        verify_step(recipe, paths, *start)
    else:
        train_stages(recipe, paths, *start, options.extend)
    return None


if __name__ == "__main__":
    run_job(Options, main, __doc__)
