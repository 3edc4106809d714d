"""Compares a step with its baselines, on the largest model that fits: `routed_over_dense` first, then the other
ratios."""

from dataclasses import replace

from pipeline.benchmarks.gpu.bench import SMALL, GpuBench
from pipeline.benchmarks.gpu.recorder import Recorder
from pipeline.benchmarks.step import StepBenchmark, measure_step
from pipeline.benchmarks.step_settings import release_gpu_memory, step_benchmark
from pipeline.config.benchmarks import TrainSettings
from pipeline.runtime.terminal import say

ROUNDS, SMALL_ROUNDS = 7, 2
COMPARED = (("dense",), ("naive", "prefix_with_gradient", "joint"))
"""The baselines of each measurement. `routed` takes part in all of them."""
FIRST_ONLY = ("mfu", "step_s", "samples_per_s", "peak_memory_bytes", "attention", "dtype")
RATIOS = ("routed_over_dense", "naive_over_routed", "prefix_speedup", "joint_over_state_normalisation")


def measure(bench: GpuBench, record: Recorder) -> None:
    """Records the figures of `jobs/benchmark.py train`, without its loop."""
    if bench.on_gpu:
        benchmark, geometry = step_benchmark(TrainSettings(rounds=ROUNDS))
        record.figures(geometry=geometry)
    else:
        benchmark = StepBenchmark(SMALL, 2, 2, 8, 6, 16, rounds=SMALL_ROUNDS, warmup=1)
    record.figures(layers=benchmark.config.num_hidden_layers, samples_per_row=benchmark.samples_per_row)
    for number, compared in enumerate(COMPARED):
        figures = measure_step(replace(benchmark, compared=compared), bench.device, say)
        wanted = RATIOS if number else (*FIRST_ONLY, *RATIOS)
        record.figures(**{name: figures[name] for name in wanted if name in figures})
        release_gpu_memory()
