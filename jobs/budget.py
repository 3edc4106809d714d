#!/usr/bin/env -S python -P
"""The GPU-day budget: `report` shows what a run has spent and when it will end, `plan` what a recipe will cost."""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs.common.cli import JobOptions, run_job
from jobs.common.recipes import load_recipe
from pipeline.config.gpus import ASSUMED_ENCODER_MFU, ASSUMED_MFU
from pipeline.errors import UsageError

PAGE_FILE = "budget.html"


@dataclass(frozen=True)
class Report(JobOptions):
    """Shows a run's spending from its ledger, running or finished, the rest to come, and when its training ends."""

    json: bool = False
    """Print the figures as one JSON object on the last line."""
    html: str = ""
    """File for the page with plots. Default: budget.html in the run's folder."""
    budget_gpu_days: float = 0.0
    """GPU-days to compare with. Default: the run's limit, or the recipe's planned budget, if any."""
    gpu_model: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=MODEL")] = ()
    """GPU that an unknown model counts as, as in --gpu-model unknown=A100. May be repeated."""


@dataclass(frozen=True)
class Plan:
    """Shows the cost of a recipe on given GPUs: training, tokenization, checkpoints and starts."""

    recipe: str = "mars_7b"
    """Name of a file in jobs/recipes."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="A.B=VALUE")] = ()
    """Override one value of the recipe. May be repeated."""
    gpu: str = ""
    """GPU model, as in A100-80GB, instead of the recipe's."""
    mfu: float = 0.0
    """Share of the GPU's peak to assume, 0 to 1. Default: 0.5."""
    benchmark: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE")] = ()
    """Measured rates to use instead: output of `jobs/benchmark.py train --json` or `tokenize --json`, or the ledger
    folder of another run. May be repeated."""
    encoder_mfu: float = ASSUMED_ENCODER_MFU
    """Share of the peak to assume for the VQ-GAN's encoder."""
    price_per_gpu_hour: float = 0.0
    """Price of an hour of one GPU, in any currency; 0 for none."""
    json: bool = False
    """Print the plan as one JSON object on the last line."""


Options = Annotated[Report, tyro.conf.subcommand("report")] | Annotated[Plan, tyro.conf.subcommand("plan")]


def main(options: Report | Plan) -> dict[str, Any]:
    return report(options) if isinstance(options, Report) else plan(options)


def report(options: Report) -> dict[str, Any]:
    """Shows the run's spending, and writes the page."""
    recipe, paths = options.resolve()
    named = {}
    for pair in options.gpu_model:
        name, separator, model = pair.partition("=")
        if not separator:
            raise UsageError(f"--gpu-model {pair!r}: write NAME=MODEL, as in unknown=A100")
        named[name] = model
    page = Path(options.html).absolute() if options.html else paths.run / PAGE_FILE

    from pipeline.reports.spending import report_spending

    return report_spending(recipe, paths, options.budget_gpu_days, named, page, options.json)


def plan(options: Plan) -> dict[str, Any]:
    if options.mfu and options.benchmark:
        raise UsageError("--mfu is assumed, --benchmark is measured; give one of them")
    for name in ("mfu", "encoder_mfu"):
        if not 0 <= (value := getattr(options, name)) <= 1:
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: a share of the peak lies between 0 and 1")
    if options.price_per_gpu_hour < 0:
        raise UsageError(f"--price-per-gpu-hour {options.price_per_gpu_hour:g}: a price is at least 0")
    recipe = load_recipe(options.recipe, options.set)

    from pipeline.reports.cost_tables import plan_spending

    mfu, price = options.mfu or ASSUMED_MFU, options.price_per_gpu_hour
    return plan_spending(recipe, options.gpu, mfu, options.encoder_mfu, options.benchmark, price, options.json)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
