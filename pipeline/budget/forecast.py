"""Forecasts the end of a run's training and the days it takes, from its ledger and its recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from pipeline.config.recipe import Recipe
from pipeline.config.tasks import Kind
from pipeline.config.units import SECONDS_PER_DAY
from pipeline.ledger.table import records_of
from pipeline.planning.recipe_plan import planned_config, sample_lengths
from pipeline.planning.work import StageWork, stage_work

UNMEASURED = 0.15
"""Assumed relative uncertainty of the cost of a stage that has not begun."""
MEASURED = 0.05
"""Minimum relative uncertainty of the remaining cost of a stage that has begun."""
FIRST_STEPS = 0.05
"""Share of a stage's steps at which their cost weighs as much as the estimate from earlier stages: the first steps
are slow, and few."""


@dataclass(frozen=True)
class Forecast:
    """Expected device-days of the run at the end of its last stage, without future days of other jobs.

    Attributes:
        gpu_days, low, high: total with the spent days, and the range it is expected in.
        left_gpu_days: days still to come.
        done_share: finished share of the training FLOP.
        left_s: seconds left at the present number of devices, or None if none are held.
        basis: the data behind the forecast, in words.
    """

    gpu_days: float
    low: float
    high: float
    left_gpu_days: float
    done_share: float
    left_s: float | None
    basis: str


@dataclass(frozen=True)
class StageProgress:
    """Progress and cost of a stage so far.

    Attributes:
        steps: number of finished steps. `share` is their share of the stage.
        update_s, work_s: device-seconds of the updates, and of everything else but starts. `work_s` includes lost steps
            and stalls.
    """

    steps: float
    share: float
    update_s: float
    work_s: float


def planned_work(recipe: Recipe) -> list[StageWork]:
    config, lengths, ranks = planned_config(recipe), sample_lengths(recipe), recipe.scaling.num_workers
    return [stage_work(config, stage, lengths, ranks, recipe.plan.documents) for stage in recipe.stages]


def forecast(recipe: Recipe, table: pd.DataFrame, devices_now: float) -> Forecast | None:
    """Forecasts the rest of the training. Returns None until a first step is done.

    The remaining steps of a stage in progress cost as much as its steps did so far, lost steps and stalls included. A
    stage that has not begun costs one start and, for each step, one update and its planned FLOP, at their costs so far.
    Each kind of sample has its own cost per FLOP, derived from the time of its forward passes: text, with its large
    head, costs more than a picture. In the first steps of a stage both estimates are weighted (`FIRST_STEPS`).

    Args:
        recipe: recipe of the run.
        table: table of `read_ledger`.
        devices_now: number of devices held now.
    """
    training = table[table["job"] == "train_stage"]
    works = planned_work(recipe)
    of_recipe = training["stage"].isin([str(number) for number in range(1, len(works) + 1)])
    training = training[of_recipe]  # a stage that was removed from the recipe says nothing about the others
    trained = training[training["step"].notna()]
    if not len(trained):
        return None
    prices = _prices(trained)
    flops, weights = [work.flop for work in works], [_weight(work, prices) for work in works]
    begun = {
        number: _begun(training[training["stage"] == str(number)], works[number - 1].steps)
        for number in sorted({int(text) for text in trained["stage"]})
    }
    start_s = fmean((trained["starting_seconds"] * trained["gpu_count"]).tolist())
    left, spread = _left(works, weights, begun, start_s)
    of_kind = table[(table["gpu_model"] == "CPU") == (not recipe.scaling.use_gpu)]
    spent = float(of_kind["device_seconds"].sum())
    return Forecast(
        gpu_days=(spent + left) / SECONDS_PER_DAY,
        low=(spent + left - spread) / SECONDS_PER_DAY,
        high=(spent + left + spread) / SECONDS_PER_DAY,
        left_gpu_days=left / SECONDS_PER_DAY,
        done_share=sum(stage.share * flops[number - 1] for number, stage in begun.items()) / sum(flops),
        left_s=left / devices_now if devices_now else None,
        basis=(
            f"{len(begun)} of {len(works)} stages measured; the others by their planned FLOP at the measured price of "
            f"one, give or take {UNMEASURED:.0%}"
            if len(begun) < len(works)
            else "every stage measured"
        ),
    )


def _left(
    works: list[StageWork], weights: list[float], begun: Mapping[int, StageProgress], start_s: float
) -> tuple[float, float]:
    """Returns the device-seconds left, and their uncertainty.

    Args:
        works: planned work of every stage.
        weights: FLOP of every stage, weighted by the cost of their kinds.
        begun: progress of the begun stages, by stage number.
        start_s: device-seconds of one start.
    """

    def expected(number: int, others: Mapping[int, StageProgress]) -> float:
        """Returns the device-seconds of a stage, estimated from other stages."""
        update_s = sum(other.update_s for other in others.values()) / sum(other.steps for other in others.values())
        done = sum(other.share * weights[each - 1] for each, other in others.items())
        price = sum(other.work_s for other in others.values()) / done
        return works[number - 1].steps * update_s + price * weights[number - 1]

    left, spread = 0.0, 0.0
    for number in range(1, len(works) + 1):
        stage = begun.get(number)
        others = {each: other for each, other in begun.items() if each != number}
        if stage is None:
            cost = expected(number, begun)
            left += cost + start_s
            spread += UNMEASURED * cost
            continue
        cost = (stage.update_s + stage.work_s) / stage.share
        if others:
            trust = stage.share / (stage.share + FIRST_STEPS)
            cost = trust * cost + (1 - trust) * expected(number, others)
        left += (1 - stage.share) * cost
        spread += MEASURED * (1 - stage.share) * cost
    return left, spread


def _begun(attempts: pd.DataFrame, steps: int) -> StageProgress:
    counts = attempts["gpu_count"]
    starting = float((attempts["starting_seconds"] * counts).sum())
    update_s = float((attempts["update_seconds"] * counts).sum())
    done = float(attempts["step"].max())
    cost = float(attempts["device_seconds"].sum())
    return StageProgress(done, min(1.0, done / steps), update_s, cost - starting - update_s)


def _prices(trained: pd.DataFrame) -> dict[str, float]:
    """Returns device-seconds per FLOP of the forward pass by kind of sample; only their ratios matter.

    Returns an empty dict if the ledger was written before kinds were timed.
    """
    sums: dict[str, list[float]] = {}
    for row in records_of(trained):
        for kind, (flop, seconds) in (row["kinds"] or {}).items():
            before = sums.setdefault(kind, [0.0, 0.0])
            sums[kind] = [before[0] + flop, before[1] + seconds * row["gpu_count"]]
    return {kind: seconds / flop for kind, (flop, seconds) in sums.items() if flop}


def _weight(work: StageWork, prices: Mapping[str, float]) -> float:
    """Returns the planned FLOP of the stage, weighted by the cost of each kind."""
    usual = fmean(prices.values()) if prices else 1.0
    return work.steps * sum(kind.samples * kind.flop.total * _price_of(kind.kind, prices, usual) for kind in work.kinds)


def _price_of(kind: Kind, prices: Mapping[str, float], usual: float) -> float:
    """Returns the cost per FLOP of a kind.

    A kind without a measurement takes the cost of another kind if both have a text prefix, because their FLOP cost
    about the same. Otherwise it takes the usual cost.
    """
    alike = [kind, *(other for other in Kind if kind.has_text_prefix and other.has_text_prefix)]
    return next((prices[name] for name in (other.name.lower() for other in alike) if name in prices), usual)
