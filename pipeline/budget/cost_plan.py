"""The cost of a recipe: training, tokenization, checkpoints and starts, in days of a GPU, of A100s, and in money.

FLOP are those of `pipeline/planning/work.py`, which the benchmark and the ledger use as well. Every factor names its
source: the recipe, counted, measured, or assumed.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.budget.measured_rates import MeasuredRates, mfu_of
from pipeline.budget.published import PAPER_GPU_DAYS, SD15_GPU_DAYS
from pipeline.budget.spending import a100_factor
from pipeline.config.gpus import peak_flop_per_s
from pipeline.config.recipe import Recipe
from pipeline.config.stage import StageConfig
from pipeline.config.units import SECONDS_PER_DAY
from pipeline.errors import UsageError
from pipeline.planning.recipe_plan import Device, RecipePlan, plan_recipe, planned_device
from pipeline.planning.tokenization_work import tokenization_work

ASSUMED_START_S = 600.0
"""Seconds from getting a stage's devices to its first step: reading weights, setting up DeepSpeed and torch.compile."""
ASSUMED_COPY_BYTES_PER_S = 10e9
"""Speed of a checkpoint's copy from a GPU to its host, over PCIe. Training continues while the copy is written."""
STATE_BYTES = 12
"""Bytes per trained parameter in a checkpoint: float32 weight and AdamW's two moments."""
CHANGE = 0.1
"""The share by which each factor is varied."""


@dataclass(frozen=True)
class Factor:
    """A number that the plan is based on."""

    value: float | str
    unit: str
    source: str


@dataclass(frozen=True)
class Cost:
    """Days of the planned device that one part costs."""

    part: str
    training: float
    tokenization: float
    checkpoints: float
    starting: float
    waiting: float

    @property
    def gpu_days(self) -> float:
        return self.training + self.tokenization + self.checkpoints + self.starting + self.waiting


@dataclass(frozen=True)
class CostPlan:
    """The cost plan.

    `stages` and `tokenization` sum to the whole. `a100` is A100 days per day of the device, or None on CPUs.
    """

    recipe: Recipe
    device: str
    assumed: bool
    stages: tuple[Cost, ...]
    tokenization: Cost
    factors: dict[str, Factor]
    a100: float | None
    price_per_gpu_hour: float

    @property
    def gpu_days(self) -> float:
        return sum(cost.gpu_days for cost in (self.tokenization, *self.stages))

    @property
    def training_days(self) -> float:
        """Days of the training steps alone, which the MFU applies to."""
        return sum(cost.training for cost in self.stages)


def plan_costs(
    recipe: Recipe, gpu: str, mfu: float, rates: MeasuredRates, encoder_mfu: float, price: float
) -> CostPlan:
    """Plans all stages and the tokenization of their pictures.

    Args:
        recipe: with its overrides.
        gpu: GPU model to plan on, instead of the recipe's or the measured one.
        mfu: assumed share of the peak, if no rate was measured.
        rates: measured rates.
        encoder_mfu: the same for the VQ-GAN's encoder.
        price: price of a GPU-hour, in any currency; 0 for none.

    Raises:
        UsageError: the recipe is impossible, the rates are of another device, or there are none for CPUs.
    """
    measured = rates.flop_per_s is not None
    _check_device_kind(recipe, rates)
    gpu = gpu or (rates.device if recipe.scaling.use_gpu else "")
    device = planned_device(recipe, gpu, mfu)
    if measured and device.peak_flop_per_s != peak_flop_per_s(rates.device):
        raise UsageError(f"--gpu {device.name}: the rates were measured on {rates.device}; plan on that, or with --mfu")
    plan = plan_recipe(unlimited(recipe), list(range(1, len(recipe.stages) + 1)), gpu, mfu)
    by_stage = [
        rates.flop_per_s_by_stage.get(stage.number) or rates.flop_per_s or (device.peak_flop_per_s or 0.0) * mfu
        for stage in plan.stages
    ]
    costs = tuple(_stage_cost(plan, number, rate, rates) for number, rate in enumerate(by_stage))
    tokenization, factors = _tokenization(recipe, plan, device.peak_flop_per_s, rates, encoder_mfu)
    stated = mfu_of(rates, device.name) if measured else mfu
    factors = _training_factors(recipe, plan, device, stated, by_stage, rates) | factors
    a100 = a100_factor(device.name, {}) if recipe.scaling.use_gpu else None
    if a100 is not None:
        factors["A100-equivalent"] = Factor(a100, "A100 days a day", "ratio of the dense bf16 peaks")
    return CostPlan(recipe, device.name, not measured, costs, tokenization, factors, a100, price)


def _check_device_kind(recipe: Recipe, rates: MeasuredRates) -> None:
    """Raises UsageError if the rates are of a CPU and the recipe trains on GPUs, or the other way round."""
    if rates.device == "CPU" and recipe.scaling.use_gpu:
        raise UsageError(f"recipe {recipe.name!r} trains on GPUs, but the rates in {rates.sources[0]!r} are a CPU's")
    if not recipe.scaling.use_gpu and rates.device != "CPU":
        raise UsageError(
            f"recipe {recipe.name!r} trains on CPUs, which have no stated peak: give a rate with --benchmark, a "
            "file of `jobs/benchmark.py train --json` or the ledger of a run; or plan on GPUs with "
            "--set scaling.use_gpu=true --gpu A100-80GB"
        )


def _training_factors(
    recipe: Recipe, plan: RecipePlan, device: Device, mfu: float | None, by_stage: list[float], rates: MeasuredRates
) -> dict[str, Factor]:
    """Returns the factors of the training cost, each with its source.

    Args:
        recipe, plan, rates: see `plan_costs`.
        device: device of the plan.
        mfu: assumed or measured MFU.
        by_stage: FLOP/s of one device in each stage.
    """
    measured = rates.flop_per_s is not None
    of_rates = f"measured: {', '.join(rates.sources)}"
    return {
        "device": Factor(device.name, "", "the recipe's, or --gpu"),
        "devices": Factor(recipe.scaling.num_gpus or recipe.scaling.num_cpus, "", "recipe: scaling"),
        "peak": Factor((device.peak_flop_per_s or 0.0) / 1e12, "TFLOP/s", "data sheet, dense bf16"),
        "mfu": Factor(mfu or 0.0, "", of_rates if measured else "assumed (--mfu)"),
        **{
            f"stage {stage.number}: {name}": Factor(value, unit, source)
            for stage, rate in zip(plan.stages, by_stage, strict=True)
            for name, value, unit, source in (
                ("samples", stage.work.samples, "", "recipe: steps x global_batch_size"),
                ("FLOP", stage.work.flop, "", "counted: pipeline/planning/work.py, recomputation not in it"),
                ("FLOP/s of a device", rate, "", of_rates if measured else "assumed: peak x MFU"),
                ("checkpoints", _checkpoints(stage.stage), "", "recipe: steps / save_every_steps"),
            )
        },
        "a checkpoint's stall": Factor(
            _stall_s(plan),
            "s",
            "assumed: float32 states copied at 10 GB/s" if rates.checkpoint_share is None else of_rates,
        ),
        "a stage's start": Factor(
            ASSUMED_START_S if rates.starting_s is None else rates.starting_s,
            "s",
            "assumed" if rates.starting_s is None else of_rates,
        ),
        "starts of a stage": Factor(1, "", "assumed: nothing fails"),
    }


def unlimited(recipe: Recipe) -> Recipe:
    """Returns the recipe without its planned budgets, which would reject a plan that costs more."""
    return replace(recipe, plan=replace(recipe.plan, budget_gpu_days=()))


def _stage_cost(plan: RecipePlan, index: int, rate: float, rates: MeasuredRates) -> Cost:
    planned, devices = plan.stages[index], plan.recipe.scaling.num_gpus or plan.recipe.scaling.num_cpus
    training = planned.work.flop / rate
    start_s = ASSUMED_START_S if rates.starting_s is None else rates.starting_s
    stalls = _checkpoints(planned.stage) * _stall_s(plan) * devices
    return Cost(
        part=f"stage {planned.number}",
        training=training / SECONDS_PER_DAY,
        tokenization=0.0,
        checkpoints=(stalls if rates.checkpoint_share is None else training * rates.checkpoint_share) / SECONDS_PER_DAY,
        starting=start_s * devices / SECONDS_PER_DAY,
        waiting=training * (rates.waiting_share + rates.idle_share) / SECONDS_PER_DAY,
    )


def _tokenization(
    recipe: Recipe, plan: RecipePlan, peak: float | None, rates: MeasuredRates, mfu: float
) -> tuple[Cost, dict[str, Factor]]:
    flop, pictures, factors = 0.0, 0, dict[str, Factor]()
    for each in tokenization_work(recipe, plan.stages):
        flop += each.count * each.flop
        pictures = pictures or each.count
        name = f"tokenization{each.name}"
        factors[f"{name}: pictures"] = Factor(each.count, f"at {each.size_px} px", each.source)
        factors[f"{name}: FLOP a picture"] = Factor(each.flop, "", "counted: the VQ-GAN's encoder")
    if rates.pictures_per_s:
        seconds = pictures / rates.pictures_per_s
        factors["tokenization: pictures/s of a device"] = Factor(
            rates.pictures_per_s, "", f"measured: {', '.join(rates.sources)}"
        )
    elif peak:
        seconds = flop / (peak * mfu)
        factors["tokenization: encoder's MFU"] = Factor(mfu, "", "assumed (--encoder-mfu)")
    else:
        seconds = 0.0
        factors["tokenization: left out"] = Factor(0, "", "no rate of it was measured on this CPU")
    return Cost("tokenization", 0.0, seconds / SECONDS_PER_DAY, 0.0, 0.0, 0.0), factors


def _checkpoints(stage: StageConfig) -> int:
    return -(-stage.steps // stage.save_every_steps)


def _stall_s(plan: RecipePlan) -> float:
    ranks = plan.recipe.scaling.num_workers
    return STATE_BYTES * plan.counts.trainable / ranks / ASSUMED_COPY_BYTES_PER_S


def sensitivities(plan: CostPlan) -> dict[str, dict[str, float]]:
    """Returns what 10% more samples, 10% less MFU and a 10% higher price each add to the days and the money."""
    scaled = sum(cost.training + cost.checkpoints + cost.waiting for cost in plan.stages) + plan.tokenization.gpu_days
    samples = CHANGE * scaled / plan.gpu_days
    mfu = plan.training_days * (1 / (1 - CHANGE) - 1) / plan.gpu_days
    return {
        "samples +10%": {"gpu_days": samples, "money": samples},
        "MFU -10%": {"gpu_days": mfu, "money": mfu},
        "price +10%": {"gpu_days": 0.0, "money": CHANGE},
    }


def as_object(plan: CostPlan) -> dict[str, Any]:
    """Returns the plan as plain values for JSON."""

    def days(cost_days: float) -> dict[str, float | None]:
        a100 = cost_days * plan.a100 if plan.a100 is not None else None
        return {
            "gpu_days": cost_days,
            "a100_gpu_days": a100,
            "share_of_sd15": a100 / SD15_GPU_DAYS if a100 is not None else None,
            "share_of_paper": a100 / PAPER_GPU_DAYS if a100 is not None else None,
            "price": cost_days * 24 * plan.price_per_gpu_hour if plan.price_per_gpu_hour else None,
        }

    parts = {cost.part: asdict(cost) | days(cost.gpu_days) for cost in (plan.tokenization, *plan.stages)}
    moves = sensitivities(plan)
    column = "money" if plan.price_per_gpu_hour else "gpu_days"
    return {
        "recipe": plan.recipe.name,
        "device": plan.device,
        "assumed": plan.assumed,
        **days(plan.gpu_days),
        "stages": [parts[cost.part] | {"stage": number} for number, cost in enumerate(plan.stages, start=1)],
        "tokenization": parts["tokenization"],
        "training_gpu_days": plan.training_days,
        "factors": {name: asdict(factor) for name, factor in plan.factors.items()},
        "sensitivities": moves,
        "moves_most": max(moves, key=lambda name: moves[name][column]),
    }
