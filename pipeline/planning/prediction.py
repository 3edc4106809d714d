"""Predicts the steps, the MFU and the GPU-days of a recipe on a number of GPUs of a machine type, as a range."""

from dataclasses import dataclass, replace

from pipeline.config.gpus import A100, memory_bytes, peak_flop_per_s
from pipeline.config.machine_types import MachineType
from pipeline.config.model_sizes import ModelSizes
from pipeline.config.recipe import Recipe
from pipeline.config.stage import StageConfig
from pipeline.config.units import SECONDS_PER_DAY
from pipeline.config.zero import ZeroConfig
from pipeline.planning.assumed_rates import ENDS, AssumedRates, End, Range, links_of, overlap_of, rates_of
from pipeline.planning.flops import ParameterCounts, count_parameters, recomputed_share
from pipeline.planning.memory import memory_plan
from pipeline.planning.partition_traffic import micro_step_traffic, update_traffic
from pipeline.planning.rank_work import PhaseWork, copied_bytes, host_seconds, micro_step_works, update_work
from pipeline.planning.recipe_plan import planned_config, row_shapes, sample_lengths
from pipeline.planning.step_time import Phase, StepTime, Traffic, step_time
from pipeline.planning.work import StageWork, stage_work

NOTHING = Traffic()


@dataclass(frozen=True)
class Settings:
    """The settings of a recipe that a search varies, the same in all stages. `batch_factor` multiplies
    `global_batch_size` and divides `steps`, so that the samples stay."""

    zero_stage: int
    secondary_partition_size: int
    micro_batch_size: int
    checkpoint_every_layers: int
    batch_factor: int = 1

    def zero_of(self, recipe: Recipe) -> ZeroConfig:
        """The recipe's partitioning with these settings."""
        size = self.secondary_partition_size
        return replace(recipe.zero, zero_stage=self.zero_stage, secondary_partition_size=size)

    def stage_of(self, stage: StageConfig) -> StageConfig:
        """A stage with these settings."""
        return replace(
            stage,
            micro_batch_size=self.micro_batch_size,
            checkpoint_every_layers=self.checkpoint_every_layers,
            global_batch_size=stage.global_batch_size * self.batch_factor,
            steps=max(1, stage.steps // self.batch_factor),
        )


@dataclass(frozen=True)
class StagePrediction:
    """A stage's predicted step.

    Attributes:
        number: the stage's number, from 1.
        flop: FLOP of a step, without recomputation.
        steps: number of steps.
        low, mid, high: the predicted step at each end of the range; `low` is the slowest.
        peak_bytes: memory of a GPU at the fullest moment.
    """

    number: int
    flop: float
    steps: int
    low: StepTime
    mid: StepTime
    high: StepTime
    peak_bytes: int

    def at(self, end: End) -> StepTime:
        return {"low": self.low, "mid": self.mid, "high": self.high}[end]


@dataclass(frozen=True)
class Prediction:
    """A recipe's predicted training.

    Attributes:
        machine: the machines it runs on.
        ranks: number of GPUs.
        stages: its stages.
        memory_bytes: memory of a GPU.
    """

    machine: MachineType
    ranks: int
    stages: tuple[StagePrediction, ...]
    memory_bytes: int

    @property
    def fits(self) -> bool:
        """True if every stage fits into the GPU's memory."""
        return all(stage.peak_bytes <= self.memory_bytes for stage in self.stages)

    @property
    def gpu_days(self) -> Range:
        """Days of all GPUs together for the steps. The range's `low` is the most days."""
        return Range(*(self._seconds(end) * self.ranks / SECONDS_PER_DAY for end in ENDS))

    @property
    def a100_gpu_days(self) -> Range:
        """The same in days of A100s, by the ratio of peaks."""
        factor = (peak_flop_per_s(self.machine.gpu) or 0.0) / A100.peak_flop_per_s
        return Range(*(self.gpu_days.at(end) * factor for end in ENDS))

    @property
    def mfu(self) -> Range:
        """Share of the GPUs' peak that the steps reach, over all stages."""
        flop = sum(stage.steps * stage.flop for stage in self.stages)
        peak = (peak_flop_per_s(self.machine.gpu) or 0.0) * self.ranks
        return Range(*(flop / (self._seconds(end) * peak) for end in ENDS))

    @property
    def binds(self) -> str:
        """The name of what takes most of the time, in the middle of the range."""
        totals: dict[str, float] = {}
        for stage in self.stages:
            for name, seconds in stage.mid.by_cause.items():
                totals[name] = totals.get(name, 0.0) + stage.steps * seconds
        return max(totals, key=lambda name: totals[name])

    def _seconds(self, end: End) -> float:
        return sum(stage.steps * stage.at(end).seconds for stage in self.stages)


class Predictor:
    """Predicts a recipe on several clusters and with several settings. Samples are packed once for each number of GPUs,
    micro-batch and batch."""

    def __init__(self, recipe: Recipe, numbers: list[int]) -> None:
        """`numbers` are stage numbers, from 1. `plan_recipe` must find no fault with the recipe."""
        self.recipe, self._numbers = recipe, numbers
        self._config, self._lengths = planned_config(recipe), sample_lengths(recipe)
        self._counts = count_parameters(self._config)
        self._works: dict[tuple[int, int, int, int], StageWork] = {}

    def predict(self, machine: MachineType, ranks: int, settings: Settings | None = None) -> Prediction:
        """Predicts the training on `ranks` GPUs of a machine type, with the recipe's settings or other ones."""
        memory = memory_bytes(machine.gpu)
        if memory is None:
            raise ValueError(f"the memory of {machine.gpu!r} is not known")
        zero = settings.zero_of(self.recipe) if settings else self.recipe.zero
        found = []
        for number in self._numbers:
            stage = self.recipe.stages[number - 1]
            stage = settings.stage_of(stage) if settings else stage
            work = self._work(number, stage, ranks)
            steps = [_step(self._config, self._counts, stage, work, zero, machine, ranks, end) for end in ENDS]
            shapes = row_shapes(stage, work)
            plan = memory_plan(self._config, self._counts, stage, zero, ranks, shapes, use_gpu=True)
            low, mid, high = steps
            found.append(StagePrediction(number, work.flop / work.steps, work.steps, low, mid, high, plan.peak))
        return Prediction(machine, ranks, tuple(found), memory)

    def _work(self, number: int, stage: StageConfig, ranks: int) -> StageWork:
        key = (number, ranks, stage.micro_batch_size, stage.global_batch_size)
        if key not in self._works:
            recomputing = replace(stage, checkpoint_every_layers=1)
            documents = self.recipe.plan.documents
            self._works[key] = stage_work(self._config, recomputing, self._lengths, ranks, documents)
        share = recomputed_share(self._config, stage.checkpoint_every_layers)
        work = self._works[key]
        kinds = (replace(kind, recomputed_flop=share * kind.recomputed_flop) for kind in work.kinds)
        return replace(work, kinds=tuple(kinds), steps=stage.steps)


def _step(
    config: ModelSizes,
    counts: ParameterCounts,
    stage: StageConfig,
    work: StageWork,
    zero: ZeroConfig,
    machine: MachineType,
    ranks: int,
    end: End,
) -> StepTime:
    phases = step_phases(config, counts, stage, work, zero, ranks, machine.gpus, rates_of(machine.gpu, end))
    return step_time(phases, links_of(machine, ranks, end), overlap_of(end))


def step_phases(
    config: ModelSizes,
    counts: ParameterCounts,
    stage: StageConfig,
    work: StageWork,
    zero: ZeroConfig,
    ranks: int,
    ranks_per_node: int,
    rates: AssumedRates,
) -> list[Phase]:
    """Returns the phases of a stage's step on GPUs with the given rates."""
    phases = []
    host_s = host_seconds(config, zero) * rates.host_factor
    for number, micro_step in enumerate(micro_step_works(config, stage, work, zero)):
        traffic = micro_step_traffic(config, counts, zero, ranks, ranks_per_node, first=number == 0)
        phases.append(
            Phase(
                "forward",
                _seconds(micro_step.forward, rates, traffic.forward_gathers),
                host_s / 3,
                gathers=traffic.forward_gathers,
                exposed=traffic.first_unit,
            )
        )
        phases.append(
            Phase(
                "backward",
                _seconds(micro_step.backward, rates, traffic.backward_gathers, traffic.reductions),
                host_s * 2 / 3,
                gathers=traffic.backward_gathers,
                reductions=traffic.reductions,
                exposed=traffic.last_unit,
            )
        )
    updated = update_traffic(counts, zero, ranks, ranks_per_node)
    phases.append(Phase("update", _seconds(update_work(counts, ranks), rates), 0.0, exposed=updated))
    return phases


def _seconds(work: PhaseWork, rates: AssumedRates, gathered: Traffic = NOTHING, reduced: Traffic = NOTHING) -> float:
    moved = work.moved_bytes + copied_bytes(
        gathered.inside_bytes + gathered.across_bytes, reduced.inside_bytes + reduced.across_bytes
    )
    return (
        work.products / rates.products_flop_per_s
        + work.attention / rates.attention_flop_per_s
        + moved / rates.memory_bytes_per_s
    )
