"""Measures training's wait for samples: runs the loader at the pace of a recipe's steps, without the model."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.benchmarks.node_feed import measure_node_feed
from pipeline.benchmarks.random_tokens import FeedBenchmark, inputs_of, write_tokens
from pipeline.config.benchmarks import FeedSettings
from pipeline.config.recipe import Recipe
from pipeline.config.units import SECONDS_PER_DAY
from pipeline.data.loader import lone_loader, prefetch
from pipeline.errors import UsageError
from pipeline.planning.recipe_plan import plan_recipe
from pipeline.runtime.terminal import say
from tokenization.files.storage import open_storage
from tokenization.table.token_table import MANIFEST_FILE

TIMED_STEPS = 5
"""Steps taken from the loader without a pause, at the end, to time it alone."""


def benchmark_feeding(settings: FeedSettings, recipe: Recipe) -> dict[str, Any]:
    """Measures a rank's loader at the pace of one stage of the recipe.

    Raises:
        UsageError: there is no such stage, or its pace is unknown.
    """
    if not 1 <= settings.stage <= len(recipe.stages):
        raise UsageError(f"--stage {settings.stage}: recipe {recipe.name!r} has the stages 1 to {len(recipe.stages)}")
    plan = plan_recipe(recipe, [settings.stage], settings.gpu, settings.mfu)
    (planned,) = plan.stages
    benchmark = FeedBenchmark(
        stage=planned.stage,
        stage_number=settings.stage,
        vocabulary=plan.config.vocabulary,
        lengths=plan.lengths,
        world_size=recipe.scaling.num_workers,
        step_s=0.0,
        steps=settings.steps,
        shard_rows=settings.shard_rows,
        in_process=recipe.scaling.loader_process,
    )
    if settings.ranks:
        stage = replace(planned.stage, global_batch_size=settings.ranks * settings.samples_per_rank)
        simulated = replace(benchmark, stage=stage, world_size=settings.ranks)
        return {"recipe": recipe.name, "stage": settings.stage} | measure_node_feed(
            simulated, settings.index_rows, lambda line: say(f"benchmark: {line}")
        )
    if planned.gpu_days is None:
        raise UsageError(f"recipe {recipe.name!r} trains on CPUs, whose pace is unknown; name a recipe for GPUs")
    workers = recipe.scaling.num_workers
    benchmark = replace(benchmark, step_s=planned.gpu_days * SECONDS_PER_DAY / workers / planned.stage.steps)
    say(
        f"benchmark: stage {settings.stage} of {recipe.name}, {planned.stage.global_batch_size} samples every "
        f"{benchmark.step_s:.2f} s, the pace of {workers} {plan.device.name} at MFU {settings.mfu:g}"
    )
    with tempfile.TemporaryDirectory() as folder:
        location = settings.location or folder
        if MANIFEST_FILE not in open_storage(location).names():
            write_tokens(location, benchmark, say)
        figures = measure_feed(location, benchmark, say)
    return {"recipe": recipe.name, "stage": settings.stage, "location": settings.location or "a local folder"} | figures


def measure_feed(location: str, benchmark: FeedBenchmark, report: Callable[[str], None]) -> dict[str, Any]:
    """Takes the first steps of an epoch from the loader, and sleeps `step_s` between two.

    Returns:
        `data_wait_share` of the steps' time, the median and the longest wait, and the loader's time for a step.
    """
    inputs = inputs_of(location, benchmark)
    loader = lone_loader(inputs.plan, 0, benchmark.world_size, benchmark.in_process)
    waits: list[float] = []
    started = time.monotonic()
    for number, _ in enumerate(prefetch(loader.step, 0, benchmark.steps + 1)):
        waits.append(time.monotonic() - started)
        if number == 0:
            report(f"the first step came after {waits[0]:.2f} s")
        time.sleep(benchmark.step_s)
        started = time.monotonic()
    counted = waits[1:]
    alone = []
    for number in range(TIMED_STEPS):
        started = time.monotonic()
        loader.step(benchmark.steps + 1 + number)
        alone.append(time.monotonic() - started)
    loader.close()
    return {
        "step_s": benchmark.step_s,
        "data_wait_share": sum(counted) / (sum(counted) + benchmark.step_s * len(counted)),
        "median_wait_s": statistics.median(counted),
        "longest_wait_s": max(counted),
        "loader_s_per_step": statistics.median(alone),
        "first_step_s": waits[0],
        "samples_per_s": benchmark.stage.global_batch_size / benchmark.step_s,
    }
