"""The settings of the step's benchmark: on a GPU, the largest model that fits. Imports no Ray."""

import gc

import torch

from pipeline.architecture.geometries import GEOMETRIES, with_layers
from pipeline.architecture.mars_config import MarsConfig
from pipeline.benchmarks.step import StepBenchmark
from pipeline.config.benchmarks import TrainSettings
from pipeline.planning.flops import count_parameters, expert_parameters

TRAINED_BYTES, FROZEN_BYTES, ACTIVATION_BYTES = 8, 2, 160_000
"""Bytes on a GPU in bf16: of a trained parameter with its gradient and two moments, of a frozen parameter, and of
the activations that the backward pass keeps per position and layer of Qwen-7B when both experts run (the naive
baseline), about 2 * (20 * 4,096)."""


def step_benchmark(settings: TrainSettings) -> tuple[StepBenchmark, str]:
    """Returns the settings with every automatic choice made, and the name of the geometry."""
    on_gpu = torch.cuda.is_available()
    geometry = settings.geometry if settings.geometry != "auto" else "qwen_7b" if on_gpu else "small"
    rows = settings.rows or (1 if on_gpu else 4)
    samples_per_row = settings.samples_per_row or (12 if on_gpu else 1)
    config, layers = GEOMETRIES[geometry], settings.layers
    if not layers:
        layers = layers_that_fit(config, rows * samples_per_row * 333) if on_gpu else config.num_hidden_layers
    dtype = settings.dtype if settings.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    benchmark = StepBenchmark(
        config=with_layers(config, layers),
        rows=rows,
        samples_per_row=samples_per_row,
        row_multiple=64 if on_gpu else 1,
        rounds=settings.rounds,
        dtype=getattr(torch, dtype),
        attention=settings.attention if settings.attention != "auto" else "flex_attention" if on_gpu else "eager",
        compile_layers=settings.compile == "yes" or (settings.compile == "auto" and on_gpu),
    )
    return benchmark, geometry


def layers_that_fit(config: MarsConfig, tokens: int) -> int:
    """Returns the number of layers that can be trained in the GPU's free memory with a tenth of it left free."""
    free_bytes, _ = torch.cuda.mem_get_info()
    counts = count_parameters(with_layers(config, 0))
    tables = TRAINED_BYTES * counts.trainable + FROZEN_BYTES * (counts.total - counts.trainable)
    each = (TRAINED_BYTES + FROZEN_BYTES) * expert_parameters(with_layers(config, 1)) + 2 * ACTIVATION_BYTES * tokens
    fitting = int((0.9 * free_bytes - tables) / each)
    return int(max(1, min(config.num_hidden_layers, fitting)))


def release_gpu_memory() -> None:
    """Frees GPU memory. Compiled layers refer to themselves, so their memory is freed by the garbage collector only."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()
