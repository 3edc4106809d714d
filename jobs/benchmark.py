#!/usr/bin/env -S python -P
"""Measures MARS on this machine's device: `train`, `generate`, `speculate`, `serve`, `tokenize`, `feed` and `gpu`
measure times, `punish` injects kills, `count` counts collectives and the host's time, `predict` checks the plan's
predictions, `checkpoint` and `messages` measure the metadata and the messages of many ranks, `size` counts parameters.
"""

import jobs  # noqa: F401  # isort: skip
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.common.benchmark_flags import (
    Checkpoint,
    Count,
    Feed,
    Generate,
    Gpu,
    Messages,
    Options,
    Predict,
    Punish,
    Serve,
    Shown,
    Size,
    Speculate,
    Tokenize,
    Train,
)
from jobs.common.cli import at_least, run_job
from jobs.common.figures import show
from jobs.common.recipes import load_recipe
from pipeline.errors import UsageError
from pipeline.runs.paths import checkout


def main(options: Shown) -> dict[str, Any]:
    """Runs the chosen benchmark and shows its figures."""
    benchmarks: dict[type, Callable[[Any], dict[str, Any]]] = {
        Train: train,
        Generate: generate,
        Speculate: speculate,
        Serve: serve,
        Tokenize: tokenize,
        Feed: feed,
        Punish: punish,
        Count: count,
        Gpu: gpu,
        Predict: predict,
        Checkpoint: checkpoint,
        Messages: messages,
        Size: size,
    }
    figures = benchmarks[type(options)](options)
    show(figures)
    return figures


def train(options: Train) -> dict[str, Any]:
    """Times the training step and the training loop."""
    at_least(options, rounds=1, loop_runs=1, loop_steps=0, layers=0, rows=0, samples_per_row=0)

    from pipeline.benchmarks.training import benchmark_training

    return benchmark_training(options)


def generate(options: Generate) -> dict[str, Any]:
    at_least(options, layers=0, batch_size=0, num_codes=1, group_size=1, rounds=1)
    if options.num_codes % options.group_size:
        raise UsageError(f"group_size {options.group_size} does not divide num_codes {options.num_codes}")

    from pipeline.benchmarks.generation import benchmark_generation

    return benchmark_generation(options)


def speculate(options: Speculate) -> dict[str, Any]:
    at_least(options, batch_size=1, rounds=1)
    if not options.num_drafts or min(options.num_drafts) < 1:
        raise UsageError(f"--num-drafts {options.num_drafts} must be numbers above 0")
    recipe, paths = options.resolve()

    from pipeline.benchmarks.speculation import benchmark_speculation

    return benchmark_speculation(options, recipe, paths)


def serve(options: Serve) -> dict[str, Any]:
    at_least(options, batch_size=1, batches=1, lone_requests=1, clients=1, requests=0, port=1)
    _, paths = options.resolve()

    from pipeline.benchmarks.serving.run import benchmark_serving

    return benchmark_serving(options, paths)


def tokenize(options: Tokenize) -> dict[str, Any]:
    at_least(options, rows=1000, naive_rows=10, source_px=16, encode_batch_size=1)
    at_least(options, null_readers=0, null_picture_px=8, null_rows=100, null_shard_rows=1)
    if not options.null_encoders or min(options.null_encoders) < 1:
        raise UsageError(f"--null-encoders {options.null_encoders} must be numbers above 0")
    if options.null_encoder:
        from pipeline.benchmarks.null_encoder import benchmark_null_encoder

        return benchmark_null_encoder(options)

    from pipeline.benchmarks.tokenization import benchmark_tokenization

    return benchmark_tokenization(options)


def checkpoint(options: Checkpoint) -> dict[str, Any]:
    at_least(options, ranks=1, parameters=1)

    from pipeline.benchmarks.checkpoint_metadata import benchmark_checkpoint

    return benchmark_checkpoint(options)


def messages(options: Messages) -> dict[str, Any]:
    at_least(options, ranks=1, seconds=1, step_s=0.01)

    from pipeline.benchmarks.group_messages import benchmark_messages

    return benchmark_messages(options)


def feed(options: Feed) -> dict[str, Any]:
    at_least(options, steps=1, shard_rows=1, ranks=0, samples_per_rank=1, index_rows=1)
    recipe = load_recipe(options.recipe, options.set)

    from pipeline.benchmarks.feed import benchmark_feeding

    return benchmark_feeding(options, recipe)


def punish(options: Punish) -> dict[str, Any]:
    for name in ("minutes", "save_every_steps", "most_kills", "pause_s"):
        if getattr(options, name) <= 0:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(options, name)}, but must be above 0")
    recipe, _ = options.resolve()
    root = Path(options.root or checkout() / "runs").absolute() / "punish"

    from pipeline.benchmarks.punishment import benchmark_kills

    return benchmark_kills(options, recipe, options.recipe, root, options.set)


def count(options: Count) -> dict[str, Any]:
    at_least(options, ranks=2, ranks_per_node=1, layers=0)
    recipe = load_recipe(options.recipe, options.set)

    from pipeline.benchmarks.count import benchmark_counts

    return benchmark_counts(options, recipe)


def predict(options: Predict) -> dict[str, Any]:
    if not options.mbit_per_s or min(options.mbit_per_s) <= 0:
        raise UsageError(f"--mbit-per-s {options.mbit_per_s} must be rates above 0")

    from pipeline.benchmarks.throttled.run import benchmark_predictions

    return benchmark_predictions(options)


def gpu(options: Gpu) -> dict[str, Any]:
    at_least(options, minutes=0.1, ranks=2, ranks_per_node=1)
    recipe = load_recipe(options.recipe, options.set)

    from pipeline.benchmarks.gpu.run import benchmark_gpu

    return benchmark_gpu(options, recipe)


def size(options: Size) -> dict[str, Any]:
    from pipeline.benchmarks.sizes import parameters_of

    return parameters_of(options.geometry)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
