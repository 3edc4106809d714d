"""One step of every kind of a stage, on the recipe's own tokens and weights, twice and compared. Without Ray.

Nothing is written: no checkpoint, no claim to the stage's folder, no ledger row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pipeline.config.tasks import Kind
from pipeline.data.batch_plan import StagePlan, Step
from pipeline.data.collate import MicroBatch
from pipeline.planning.flops import flop_of
from pipeline.runtime.agreement import from_every_rank
from pipeline.runtime.compiled_ops import await_compilation, set_up_compilation
from pipeline.runtime.process_memory import MemoryGrowth
from pipeline.training.engine import Engine, make_engine
from pipeline.training.objective import Objective
from pipeline.training.replica_check import check_same_language_expert
from pipeline.training.stage_run import StageRun, plan_inputs, starting_model
from pipeline.training.step import learning_rate, set_learning_rate
from pipeline.training.step_verification import Comparison, compare_step

MAX_STEPS = 16
"""Steps that are searched for a kind that is rare in the recipe."""


@dataclass(frozen=True)
class StepReport:
    """A step that was run twice. Equal on every rank.

    Attributes:
        kinds: names of the kinds of samples in it; several for the whole step.
        micro_steps: its number of micro-steps.
        comparison: see `compare_step`.
        is_tolerated: True if the two are as alike as they must be on this device.
        seconds: of the second run, on the slowest rank.
        peak_bytes: most memory of a rank: on a GPU what torch had allocated; else the growth of the process since
            before the model was loaded, with copies for the comparison.
        flop: FLOP of all ranks without recomputation.
    """

    kinds: tuple[str, ...]
    micro_steps: int
    comparison: Comparison
    is_tolerated: bool
    seconds: float
    peak_bytes: int
    flop: float


@dataclass(frozen=True)
class StageReport:
    """The steps of a stage: the whole first one, then one micro-step of each kind alone. `missing` names kinds that the
    recipe plans and that none of the first `MAX_STEPS` steps has."""

    steps: tuple[StepReport, ...]
    missing: tuple[str, ...]


def measure_stage(run: StageRun, planned: frozenset[Kind], device: torch.device) -> StageReport:
    """Loads the model and runs the steps. Every rank calls it, with `torch.distributed` initialized, in a process that
    ends afterwards: DeepSpeed keeps an engine's memory.

    Args:
        run: the stage, without an initial checkpoint: weights do not matter here.
        planned: the kinds of samples that the recipe plans for the stage.
        device: this rank's device.

    Raises:
        InputError: the model or the tokens cannot be used.
        CorruptionError: the ranks loaded different language experts, or a loss is not finite.
    """
    memory = MemoryGrowth() if device.type == "cpu" else None
    if device.type == "cpu":
        set_up_compilation()
        await_compilation(lambda line: None)
    model, base_hash = starting_model(run, device)
    check_same_language_expert(base_hash)
    plan = plan_inputs(run, model.config.vocabulary).plan()
    engine = make_engine(Objective(model, run.stage.normalisation, run.stage.z_loss), run.stage, run.zero)
    set_learning_rate(engine, learning_rate(run.stage, 0))
    steps = _steps(plan, planned)
    found = [_measured(engine, kinds, step, run, device, memory) for kinds, step in steps]
    alone = {kinds[0] for kinds, _ in steps[1:]}
    return StageReport(tuple(found), tuple(sorted(_name(kind) for kind in planned if _name(kind) not in alone)))


def _steps(plan: StagePlan, planned: frozenset[Kind]) -> list[tuple[tuple[str, ...], Step]]:
    """Returns the stage's first step, and for each kind a step of its first micro-batch alone."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    first = plan.step(0, rank, world_size)
    alone: dict[Kind, Step] = {}
    for number in range(MAX_STEPS):
        step = first if number == 0 else plan.step(number, rank, world_size)
        for batch in _batches(step):
            if batch.kind not in alone:
                alone[batch.kind] = Step([[batch]], step.num_samples, step.samples_sha256, step.label_counts)
        if planned <= alone.keys():
            break
    whole = tuple(dict.fromkeys(_name(batch.kind) for batch in _batches(first)))
    by_kind = sorted(alone.items(), key=lambda item: item[0].value)
    return [(whole, first), *(((_name(kind),), step) for kind, step in by_kind)]


def _batches(step: Step) -> Iterator[MicroBatch]:
    for batches in step.micro_steps:
        yield from batches


def _measured(
    engine: Engine,
    kinds: tuple[str, ...],
    step: Step,
    run: StageRun,
    device: torch.device,
    memory: MemoryGrowth | None,
) -> StepReport:
    if memory is None:
        torch.cuda.reset_peak_memory_stats(device)
    comparison = compare_step(engine, step, run.stage, device)
    peak = memory.peak_bytes() if memory else torch.cuda.max_memory_allocated(device)
    config, stage = engine.module.mars.config, run.stage
    flop = sum(flop_of(batch, config, stage.normalisation).total for batch in _batches(step))
    of_all = from_every_rank((comparison.seconds[1], peak, flop))
    return StepReport(
        kinds=kinds,
        micro_steps=len(step.micro_steps),
        comparison=comparison,
        is_tolerated=comparison.within_tolerance(device),
        seconds=max(seconds for seconds, _, _ in of_all),
        peak_bytes=max(peak for _, peak, _ in of_all),
        flop=sum(flop for _, _, flop in of_all),
    )


def _name(kind: Kind) -> str:
    return kind.name.lower()
