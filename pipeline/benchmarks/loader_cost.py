"""Measures what the loader takes from the thread that launches a step's kernels."""

import tempfile
import time
from dataclasses import dataclass

import psutil
import torch

from pipeline.benchmarks.random_tokens import FeedBenchmark, inputs_of, write_tokens
from pipeline.config.machine_types import machine_with
from pipeline.data.batch_plan import Step
from pipeline.data.loader import ProcessLoader, lone_loader, prefetch
from pipeline.planning.prediction import Predictor
from pipeline.planning.recipe_plan import RecipePlan
from pipeline.runtime.terminal import say
from pipeline.training.objective import packed_batch

STEPS = 3
"""Steps that count, after one that does not."""
SHARD_ROWS = 256


@dataclass(frozen=True)
class LoaderCost:
    """The loader's CPU seconds of one rank and step.

    Attributes:
        step_s: the predicted step on the recipe's GPUs, in the middle of the range.
        rank_s: in the rank's process: the main thread's, which takes the step and finishes its masks, and those of the
            thread that receives it, of which each may be one that the main thread waits for the interpreter.
        process_s: in the process that builds it.
    """

    step_s: float
    rank_s: float
    process_s: float

    @property
    def share(self) -> float:
        """The share of a step by which it gets longer, at most: what the rank's process spends, and the time by which
        the other process takes longer than a step."""
        return (self.rank_s + max(0.0, self.process_s - self.step_s)) / self.step_s


def loader_cost(plan: RecipePlan, ranks: int) -> LoaderCost | None:
    """Measures the first rank's loader on random tokens, at the settings of the stage that needs the most samples a
    second. None if the recipe's GPUs are in no known machine, because then no step is predicted."""
    machine = machine_with(plan.device.name)
    if machine is None:
        return None
    predictor = Predictor(plan.recipe, [planned.number for planned in plan.stages])
    seconds = [stage.mid.seconds for stage in predictor.predict(machine, ranks).stages]
    step_s, planned = min(
        zip(seconds, plan.stages, strict=True), key=lambda each: each[0] / each[1].stage.global_batch_size
    )
    benchmark = FeedBenchmark(
        stage=planned.stage,
        stage_number=planned.number,
        vocabulary=plan.config.vocabulary,
        lengths=plan.lengths,
        world_size=ranks,
        step_s=step_s,
        steps=STEPS,
        shard_rows=SHARD_ROWS,
    )
    cost = _measure(benchmark, getattr(torch, plan.recipe.zero.dtype))
    say(
        f"count: the loader of stage {planned.number} takes {cost.rank_s * 1000:.1f} ms of a step of {step_s:.1f} s in "
        f"the rank's process, {cost.process_s:.2f} s in its own"
    )
    return cost


def _measure(benchmark: FeedBenchmark, dtype: torch.dtype) -> LoaderCost:
    with tempfile.TemporaryDirectory() as location:
        write_tokens(location, benchmark, lambda line: None)
        loader = lone_loader(inputs_of(location, benchmark).plan, 0, benchmark.world_size, in_process=True)
        assert isinstance(loader, ProcessLoader) and loader.process_id
        received: list[float] = []

        def receive(number: int) -> Step:
            started = time.thread_time()
            step = loader.step(number)
            received.append(time.thread_time() - started)
            return step

        try:
            taken, built = [], []
            steps = prefetch(receive, 0, 1 + STEPS)
            for _ in range(1 + STEPS):
                started = time.thread_time()
                step = next(steps)
                for batches in step.micro_steps:
                    for batch in batches:
                        packed_batch(batch, benchmark.stage.attention, dtype)
                taken.append(time.thread_time() - started)
                times = psutil.Process(loader.process_id).cpu_times()
                built.append(times.user + times.system)
        finally:
            loader.close()
    # The other process builds a step ahead: between the first and the last step that are taken it builds one for each.
    return LoaderCost(benchmark.step_s, max(taken[1:]) + max(received[1:]), (built[-1] - built[0]) / STEPS)
