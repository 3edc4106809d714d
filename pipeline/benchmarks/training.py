"""Benchmarks training: one step of the largest model that fits, and the loop with and without Ray."""

from typing import Any

import torch

from pipeline.benchmarks.ray_over_plain import ray_over_plain
from pipeline.benchmarks.step import measure_step
from pipeline.benchmarks.step_settings import release_gpu_memory, step_benchmark
from pipeline.config.benchmarks import TrainSettings
from pipeline.runtime.terminal import say


def benchmark_training(settings: TrainSettings) -> dict[str, Any]:
    """Times the step, then the loop with and without Ray."""
    benchmark, geometry = step_benchmark(settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    say(
        f"benchmark: {geometry}, {benchmark.config.num_hidden_layers} layers, {benchmark.rows} rows of "
        f"{benchmark.samples_per_row} samples, {benchmark.attention} attention, on {device}"
    )
    figures: dict[str, Any] = {"geometry": f"{geometry}, {benchmark.config.num_hidden_layers} layers"}
    figures |= measure_step(benchmark, device, say)
    if settings.loop_steps:
        release_gpu_memory()
        figures["ray_over_plain"] = ray_over_plain(benchmark, settings.loop_steps, settings.loop_runs)
    return figures
