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
    """Stage to train, from 1, or `all`. Default: the next one that is not finished; of a dry run, all."""
    initial_checkpoint: str = ""
    """Checkpoint, or stage's folder, whose weights a stage starts from. Default: the stage before's last."""
    allow_unfinished: bool = False
    """Start from a stage that did not finish, too."""
    budget_gpu_days: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="[SCOPE=]DAYS")] = ()
    """GPU-days (CPU-days where no GPU trains) that the stage may take in all its attempts, as in 300 or stage=300, or
    the run with all its jobs, as in run=587. May be repeated. At 80% and 95% there is a warning, at 100% a checkpoint
    and the end with exit code 5. The ledger remembers it; 0 takes it away. Default: what the attempt before had."""
    verify_step: bool = False
    """Run the stage's next step twice on its workers and compare, instead of training. Nothing is trained. Exit code 1
    where they differ: a node that computes wrongly spoils weeks."""
    dry_run: bool = False
    """Plan instead: print the resolved recipe, batches, memory, FLOP and GPU-days, or what makes it impossible."""
    json: bool = False
    """With --dry-run: the plan as one JSON object on the last line."""
    gpu: str = ""
    """With --dry-run: GPU model to plan on, as in A100-80GB, instead of the recipe's."""
    mfu: float = ASSUMED_MFU
    """With --dry-run: share of the GPU's peak to assume."""
    cluster: str = ""
    """With --dry-run: cluster file, as in cluster/aws_a100.yaml, to say which nodes the stage will ask for. Exit code 2
    where it can never get them."""


def main(options: Options) -> dict[str, Any] | None:
    """Trains the named stage, or the next unfinished one, or only shows the plan."""
    if options.dry_run:
        from pipeline.reports.dry_run import dry_run

        plan_on = (options.gpu, options.mfu)
        recipe, before = load_recipe(options.recipe, options.set), load_recipe(options.recipe)
        return dry_run(recipe, before, options.stage, *plan_on, options.json, options.cluster)
    if options.json or options.gpu or options.cluster or options.mfu != ASSUMED_MFU:
        raise UsageError("--json, --gpu, --mfu and --cluster are of a plan; add --dry-run, or leave them out to train")
    recipe, paths = options.resolve()
    if not recipe.stages:
        raise UsageError(f"recipe {recipe.name!r} has no stages")

    from pipeline.launch.curriculum import train_stages, verify_step

    start = (options.stage, options.initial_checkpoint, options.allow_unfinished, options.budget_gpu_days)
    if options.verify_step:
        verify_step(recipe, paths, *start)
    else:
        train_stages(recipe, paths, *start)
    return None


if __name__ == "__main__":
    run_job(Options, main, __doc__)
