"""Measures training's wait for samples: runs the loader at the pace of a recipe's steps, without the model."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.config.benchmarks import FeedSettings
from pipeline.config.recipe import Recipe
from pipeline.config.stage import MAIN, Source, StageConfig
from pipeline.config.units import SECONDS_PER_DAY
from pipeline.config.vocabulary import JointVocabulary
from pipeline.data.loader import prefetch, start_loader
from pipeline.data.plan_inputs import PlanInputs
from pipeline.data.row_index import RowSelection, SourceRows, build_row_index
from pipeline.data.sequences import SequenceBuilder
from pipeline.errors import UsageError
from pipeline.planning.recipe_plan import plan_recipe
from pipeline.planning.work import INSTRUCTION_IDS, SampleLengths
from pipeline.runtime.terminal import say
from tokenization.files.storage import open_storage
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint
from tokenization.table.token_writing import write_token_shard

TIMED_STEPS = 5
"""Steps taken from the loader without a pause, at the end, to time it alone."""


@dataclass(frozen=True)
class FeedBenchmark:
    """Settings of the benchmark.

    Attributes:
        stage, stage_number: stage of a recipe; its samples come from one corpus.
        vocabulary: joint id layout.
        lengths: lengths of the samples. Caption lengths are lognormal around the mean, as on the web.
        world_size: ranks that share a step; rank 0's loader is measured.
        step_s: seconds of one step of the model.
        steps: measured steps, after the first one.
        shard_rows: rows in a shard.
        in_process: the samples are built in a process of their own.
    """

    stage: StageConfig
    stage_number: int
    vocabulary: JointVocabulary
    lengths: SampleLengths
    world_size: int
    step_s: float
    steps: int
    shard_rows: int
    in_process: bool = False


def benchmark_feeding(settings: FeedSettings, recipe: Recipe) -> dict[str, Any]:
    """Measures a rank's loader at the pace of one stage of the recipe.

    Raises:
        UsageError: there is no such stage, or its pace is unknown.
    """
    if not 1 <= settings.stage <= len(recipe.stages):
        raise UsageError(f"--stage {settings.stage}: recipe {recipe.name!r} has the stages 1 to {len(recipe.stages)}")
    plan = plan_recipe(recipe, [settings.stage], settings.gpu, settings.mfu)
    (planned,) = plan.stages
    if planned.gpu_days is None:
        raise UsageError(f"recipe {recipe.name!r} trains on CPUs, whose pace is unknown; name a recipe for GPUs")
    benchmark = FeedBenchmark(
        stage=planned.stage,
        stage_number=settings.stage,
        vocabulary=plan.config.vocabulary,
        lengths=plan.lengths,
        world_size=recipe.scaling.num_workers,
        step_s=planned.gpu_days * SECONDS_PER_DAY / recipe.scaling.num_workers / planned.stage.steps,
        steps=settings.steps,
        shard_rows=settings.shard_rows,
        in_process=recipe.scaling.loader_process,
    )
    say(
        f"benchmark: stage {settings.stage} of {recipe.name}, {planned.stage.global_batch_size} samples every "
        f"{benchmark.step_s:.2f} s, the pace of {recipe.scaling.num_workers} {plan.device.name} at MFU {settings.mfu:g}"
    )
    with tempfile.TemporaryDirectory() as folder:
        location = settings.location or folder
        if MANIFEST_FILE not in open_storage(location).names():
            write_tokens(location, benchmark, say)
        figures = measure_feed(location, benchmark, say)
    return {"recipe": recipe.name, "stage": settings.stage, "location": settings.location or "a local folder"} | figures


def write_tokens(location: str, benchmark: FeedBenchmark, report: Callable[[str], None]) -> None:
    """Writes shards of random tokens, enough for more than two windows, to a folder or URL."""
    storage, lengths, random = open_storage(location), benchmark.lengths, np.random.default_rng(0)
    samples = (benchmark.steps + 2) * benchmark.stage.global_batch_size
    shards = max(2 * benchmark.stage.window_shards + 1, -(-samples // benchmark.shard_rows))
    high = lengths.num_high_codes if benchmark.stage.needs_high_codes else None
    languages = {f"caption_{name}": name for name in benchmark.stage.language_shares}
    codebook, most = benchmark.vocabulary.codebook_size, lengths.max_caption_ids
    fingerprint = Fingerprint(
        "", "", {}, "float32", [1, 1, 1, 3], codebook, lengths.num_codes, most, languages, None, high
    )
    spread = random.lognormal(np.log(lengths.mean_caption_ids) - 0.32, 0.8, benchmark.shard_rows)
    counts = np.clip(spread.round(), 1, most).astype(int)
    rows = [
        {
            "sample_id": f"{number:09d}",
            "codes": random.integers(0, codebook, lengths.num_codes).astype(np.uint16),
            "codes_hr": random.integers(0, codebook, high).astype(np.uint16) if high else None,
            "captions": [
                {
                    "lang": language,
                    "text": "word " * count,
                    "ids": random.integers(0, benchmark.vocabulary.text_vocab_size, count).tolist(),
                    "truncated": False,
                }
                for language in benchmark.stage.language_shares
            ],
        }
        for number, count in enumerate(counts.tolist())
    ]
    report(f"writes {shards} shards of {benchmark.shard_rows} rows to {location}")
    for shard in range(shards):
        storage.write(f"{shard:05d}.parquet", lambda path: write_token_shard(path, rows, fingerprint))
    storage.write(MANIFEST_FILE, lambda path: path.write_text("{}"))


def inputs_of(location: str, benchmark: FeedBenchmark) -> PlanInputs:
    """The inputs of the plan of the benchmark's stage, over tokens at a folder or URL."""
    stage = replace(benchmark.stage, sources={MAIN: Source()})
    index = build_row_index(RowSelection(location, "", (), stage.seq_len))
    instructions = {language: [0] * count for language, count in INSTRUCTION_IDS.items()}
    builder = SequenceBuilder(benchmark.vocabulary, instructions, 0)
    return PlanInputs(stage, benchmark.stage_number, 0, (SourceRows(MAIN, location, index),), builder)


def measure_feed(location: str, benchmark: FeedBenchmark, report: Callable[[str], None]) -> dict[str, Any]:
    """Takes the first steps of an epoch from the loader, and sleeps `step_s` between two.

    Returns:
        `data_wait_share` of the steps' time, the median and the longest wait, and the loader's time for a step.
    """
    inputs = inputs_of(location, benchmark)
    loader = start_loader(inputs.plan, 0, benchmark.world_size, benchmark.in_process)
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
