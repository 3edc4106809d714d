"""When a run's training will be over, and at how many days, from its ledger and its recipe."""

from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from jobs.common.recipe import Recipe
from jobs.common.recipe_plan import planned_config, sample_lengths
from pipeline.ledger_account import SECONDS_PER_DAY
from pipeline.work_plan import stage_work

UNMEASURED = 0.25
"""Assumed uncertainty of the cost of a FLOP in a stage that has not begun, while only one stage was measured."""
MEASURED = 0.05
"""Least uncertainty of what is left, in stages that have begun."""


@dataclass(frozen=True)
class Forecast:
    """Days of the run's devices when the last stage ends; what other jobs will take then is not in them.

    Attributes:
        gpu_days, low, high: in all, those spent included, and between what they are expected.
        left_gpu_days: of them still to come.
        done_share: of the training's FLOP.
        left_s: at the present number of devices; None where none are held.
        basis: what it rests on, in words.
    """

    gpu_days: float
    low: float
    high: float
    left_gpu_days: float
    done_share: float
    left_s: float | None
    basis: str


def planned_flop(recipe: Recipe) -> list[float]:
    """Of each stage."""
    config, lengths, ranks = planned_config(recipe), sample_lengths(recipe), recipe.scaling.num_workers
    return [stage_work(config, stage, lengths, ranks, recipe.plan.documents).flop for stage in recipe.stages]


def forecast(recipe: Recipe, table: pd.DataFrame, devices_now: float) -> Forecast | None:
    """None as long as no step is done.

    Steps that are left of a stage that has begun cost what its steps have cost so far, lost ones and stalls included.
    A stage that has not begun costs its planned FLOP at the price of a FLOP so far, and one start.

    Args:
        recipe: what is to be done.
        table: of `read_ledger`.
        devices_now: that are held.
    """
    trained = table[(table["job"] == "train_stage") & table["step"].notna()]
    if not len(trained):
        return None
    flops = planned_flop(recipe)
    per_flop, left, done, spread, starts = [], 0.0, 0.0, 0.0, []
    begun: dict[int, tuple[float, float]] = {}
    for text, attempts in trained.groupby("stage"):
        number = int(str(text))
        every = table[(table["job"] == "train_stage") & (table["stage"] == text)]
        starts += (every["starting_seconds"] * every["gpu_count"]).tolist()
        cost = float(every["device_seconds"].sum() - (every["starting_seconds"] * every["gpu_count"]).sum())
        begun[number] = (cost, float(attempts["step"].max()))
    for number, (stage, flop) in enumerate(zip(recipe.stages, flops, strict=True), start=1):
        if number in begun:
            cost, steps = begun[number]
            share = min(1.0, steps / stage.steps)
            per_flop.append(cost / (share * flop))
            left += cost * (1 - share) / share
            spread += MEASURED * cost * (1 - share) / share
            done += share * flop
    unmeasured = UNMEASURED if len(per_flop) == 1 else (max(per_flop) - min(per_flop)) / fmean(per_flop)
    for number, flop in enumerate(flops, start=1):
        if number not in begun:
            cost = flop * fmean(per_flop) + fmean(starts)
            left, spread = left + cost, spread + unmeasured * cost
    of_kind = table[(table["gpu_model"] == "CPU") == (not recipe.scaling.use_gpu)]
    spent = float(of_kind["device_seconds"].sum())
    return Forecast(
        gpu_days=(spent + left) / SECONDS_PER_DAY,
        low=(spent + left - spread) / SECONDS_PER_DAY,
        high=(spent + left + spread) / SECONDS_PER_DAY,
        left_gpu_days=left / SECONDS_PER_DAY,
        done_share=done / sum(flops),
        left_s=left / devices_now if devices_now else None,
        basis=(
            f"{len(begun)} of {len(flops)} stages measured; the others by their planned FLOP at the measured price of "
            f"one, give or take {unmeasured:.0%}"
            if len(begun) < len(flops)
            else "every stage measured"
        ),
    )
