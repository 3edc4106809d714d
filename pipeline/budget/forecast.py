"""Forecasts when a run's training ends and how many days it takes, from its ledger and its recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from pipeline.config.recipe import Recipe
from pipeline.config.tasks import Kind
from pipeline.ledger.account import SECONDS_PER_DAY
from pipeline.ledger.rows import records_of
from pipeline.planning.recipe_plan import planned_config, sample_lengths
from pipeline.planning.work import StageWork, stage_work

UNMEASURED = 0.15
"""Assumed uncertainty of what a stage costs that has not begun."""
MEASURED = 0.05
"""Least uncertainty of what is left, in stages that have begun."""
FIRST_STEPS = 0.05
"""Share of a stage's steps whose cost says as much as what is known of it from the stages before: its first steps are
slow, and few."""


@dataclass(frozen=True)
class Forecast:
    """Days of the run's devices at the end of the last stage, without what other jobs will take.

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


@dataclass(frozen=True)
class StageProgress:
    """The progress and the cost of a stage so far.

    Attributes:
        steps: that are done, of them a share of the stage's.
        update_s, work_s: device-seconds of its updates, and of all else but starts: lost steps and stalls are in it.
    """

    steps: float
    share: float
    update_s: float
    work_s: float


def planned_work(recipe: Recipe) -> list[StageWork]:
    """The planned work of each stage."""
    config, lengths, ranks = planned_config(recipe), sample_lengths(recipe), recipe.scaling.num_workers
    return [stage_work(config, stage, lengths, ranks, recipe.plan.documents) for stage in recipe.stages]


def forecast(recipe: Recipe, table: pd.DataFrame, devices_now: float) -> Forecast | None:
    """None as long as no step is done.

    Steps that are left of a stage that has begun cost what its steps have cost so far, lost ones and stalls included.
    A stage that has not begun costs one start and, a step, an update and its planned FLOP, both at their price so far.
    The FLOP of each kind of samples have a price of their own, from how long its forward passes took: text's, with its
    large head, cost more than a picture's. While a stage is in its first steps both are weighed (`FIRST_STEPS`).

    Args:
        recipe: what is to be done.
        table: of `read_ledger`.
        devices_now: that are held.
    """
    training = table[table["job"] == "train_stage"]
    works = planned_work(recipe)
    of_recipe = training["stage"].isin([str(number) for number in range(1, len(works) + 1)])
    training = training[of_recipe]  # a stage that the recipe has no more tells nothing of the others
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
    """Device-seconds that are left, and their uncertainty.

    Args:
        works: planned, of every stage.
        weights: of every stage, its FLOP at the price of their kinds.
        begun: progress, by the number of the stage.
        start_s: device-seconds of a start.
    """

    def expected(number: int, others: Mapping[int, StageProgress]) -> float:
        """Device-seconds of a stage, from the cost of others."""
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
    """Device-seconds of a FLOP's forward pass, by the kind of samples; only their ratios count. Empty where the ledger
    is of before kinds were timed."""
    sums: dict[str, list[float]] = {}
    for row in records_of(trained):
        for kind, (flop, seconds) in (row["kinds"] or {}).items():
            before = sums.setdefault(kind, [0.0, 0.0])
            sums[kind] = [before[0] + flop, before[1] + seconds * row["gpu_count"]]
    return {kind: seconds / flop for kind, (flop, seconds) in sums.items() if flop}


def _weight(work: StageWork, prices: Mapping[str, float]) -> float:
    """The stage's planned FLOP, weighted by the price of each kind."""
    usual = fmean(prices.values()) if prices else 1.0
    return work.steps * sum(kind.samples * kind.flop.total * _price_of(kind.kind, prices, usual) for kind in work.kinds)


def _price_of(kind: Kind, prices: Mapping[str, float], usual: float) -> float:
    """The price of a kind. A kind that was not measured gets the price of another with a text prefix, if it has one
    too: their FLOP cost about the same. Otherwise it gets the usual price."""
    alike = [kind, *(other for other in Kind if kind.has_text_prefix and other.has_text_prefix)]
    return next((prices[name] for name in (other.name.lower() for other in alike) if name in prices), usual)
