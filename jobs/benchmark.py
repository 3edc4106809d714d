#!/usr/bin/env -S python -P
"""Measures MARS on the device at hand: `train` times training steps, `size` counts parameters."""

import sys
from pathlib import Path

# `jobs/tokenize.py` would hide the standard library's `tokenize` from every script in this folder.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

import gc  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from functools import partial  # noqa: E402
from typing import Annotated, Any, Literal  # noqa: E402

import ray  # noqa: E402
import torch  # noqa: E402
import tyro  # noqa: E402
from rich.table import Table  # noqa: E402

from jobs.common.cli import connect_to_ray, console, run_job, say  # noqa: E402
from jobs.common.exit_codes import UsageError  # noqa: E402
from jobs.common.messages import Messages  # noqa: E402
from pipeline.configuration import MarsConfig  # noqa: E402
from pipeline.deepspeed_engine import ZeroConfig  # noqa: E402
from pipeline.geometry import GEOMETRIES  # noqa: E402
from pipeline.metrics import count_parameters, expert_parameters  # noqa: E402
from pipeline.plain_training import run_stage_without_ray  # noqa: E402
from pipeline.ray_training import ScalingConfig, run_workers  # noqa: E402
from pipeline.stage_config import StageConfig  # noqa: E402
from pipeline.step_benchmark import StepBenchmark, measure_step  # noqa: E402
from pipeline.synthetic import synthetic_run  # noqa: E402
from pipeline.train_loop import StageRun, train_stage  # noqa: E402

TRAINED_BYTES, FROZEN_BYTES, ACTIVATION_BYTES = 8, 2, 160_000
"""On a GPU, bf16: a trained parameter with its gradient and two moments; a frozen one; and what the backward pass of
Qwen-7B's layer keeps of a position, both experts run (the naive baseline), about 2 * (20 * 4,096)."""


@dataclass(frozen=True)
class Train:
    """Times a training step: SemVIE, a dense model of its active size, both experts everywhere, the text prefix with
    gradient, the joint normalisation, and the whole loop with and without Ray."""

    json: bool = False
    """Print the figures as one JSON object on the last line."""
    geometry: Literal["auto", "qwen_7b", "small"] = "auto"
    """Model size. auto: qwen_7b on a GPU, with as many layers as fit; small on a CPU."""
    layers: int = 0
    """Layers instead of the geometry's, or of as many as fit. 0: not given."""
    rows: int = 0
    """Packed rows of the micro-batch. 0: 1 on a GPU, 4 on a CPU."""
    samples_per_row: int = 0
    """Samples of 77 text ids and 256 codes in a row. 0: 12 on a GPU, 1 on a CPU."""
    rounds: int = 9
    """Rounds in which every variant runs one step."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 on a GPU, float32 on a CPU."""
    attention: Literal["auto", "sdpa", "eager", "flex_attention"] = "auto"
    """auto: flex_attention on a GPU, eager on a CPU."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile the layers of all variants. auto: on a GPU."""
    loop_steps: int = 18
    """Steps of each run of the loop, with and without Ray; the first third does not count. 0 leaves the loop out."""
    loop_runs: int = 3
    """Runs of the loop with and without Ray that count, alternating, after one of each that does not."""


@dataclass(frozen=True)
class Size:
    """Counts the parameters of a geometry, without making the model."""

    json: bool = False
    """Print the figures as one JSON object on the last line."""
    geometry: Literal["qwen_7b", "small"] = "qwen_7b"
    """Model size."""


Options = Annotated[Train, tyro.conf.subcommand("train")] | Annotated[Size, tyro.conf.subcommand("size")]


def main(options: Train | Size) -> dict[str, Any]:
    """Measures and shows what the options say."""
    figures = sizes(options) if isinstance(options, Size) else train(options)
    table = Table(show_header=False)
    for name, value in figures.items():
        table.add_row(
            name,
            f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value),
        )
    console.print(table)
    return figures


def sizes(options: Size) -> dict[str, Any]:
    """Parameters of a geometry."""
    config = GEOMETRIES[options.geometry]
    counts = count_parameters(config)
    return {
        "geometry": options.geometry,
        "vocab_size": config.vocab_size,
        "total_parameters": counts.total,
        "trainable_parameters": counts.trainable,
        "active_parameters": counts.active,
    }


def train(options: Train) -> dict[str, Any]:
    """Times the step, then the loop."""
    benchmark, geometry = step_benchmark(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    say(
        f"benchmark: {geometry}, {benchmark.config.num_hidden_layers} layers, {benchmark.rows} rows of "
        f"{benchmark.samples_per_row} samples, {benchmark.attention} attention, on {device}"
    )
    figures: dict[str, Any] = {"geometry": f"{geometry}, {benchmark.config.num_hidden_layers} layers"}
    figures |= measure_step(benchmark, device, say)
    if options.loop_steps:
        release_gpu_memory()
        figures["ray_over_plain"] = ray_over_plain(options, benchmark)
    return figures


def step_benchmark(options: Train) -> tuple[StepBenchmark, str]:
    """The options with every automatic choice made, and the geometry's name."""
    at_least = {"rounds": 1, "loop_runs": 1, "loop_steps": 0, "layers": 0, "rows": 0, "samples_per_row": 0}
    for name, least in at_least.items():
        if getattr(options, name) < least:
            raise UsageError(f"{name} is {getattr(options, name)}, it must be at least {least}")
    on_gpu = torch.cuda.is_available()
    geometry = options.geometry if options.geometry != "auto" else "qwen_7b" if on_gpu else "small"
    rows = options.rows or (1 if on_gpu else 4)
    samples_per_row = options.samples_per_row or (12 if on_gpu else 1)
    config, layers = GEOMETRIES[geometry], options.layers
    if not layers:
        layers = layers_that_fit(config, rows * samples_per_row * 333) if on_gpu else config.num_hidden_layers
    dtype = options.dtype if options.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    benchmark = StepBenchmark(
        config=with_layers(config, layers),
        rows=rows,
        samples_per_row=samples_per_row,
        row_multiple=64 if on_gpu else 1,
        rounds=options.rounds,
        dtype=getattr(torch, dtype),
        attention=options.attention if options.attention != "auto" else "flex_attention" if on_gpu else "eager",
        compile_layers=options.compile == "yes" or (options.compile == "auto" and on_gpu),
    )
    return benchmark, geometry


def with_layers(config: MarsConfig, layers: int) -> MarsConfig:
    """The config with another number of layers."""
    values = config.to_dict()
    values.pop("layer_types")
    return MarsConfig(**values | {"num_hidden_layers": layers})


def layers_that_fit(config: MarsConfig, tokens: int) -> int:
    """Layers of a model that the free memory of the GPU trains, a tenth of it left free."""
    free_bytes, _ = torch.cuda.mem_get_info()
    counts = count_parameters(with_layers(config, 0))
    tables = TRAINED_BYTES * counts.trainable + FROZEN_BYTES * (counts.total - counts.trainable)
    each = (TRAINED_BYTES + FROZEN_BYTES) * expert_parameters(with_layers(config, 1)) + 2 * ACTIVATION_BYTES * tokens
    return max(1, min(config.num_hidden_layers, int((0.9 * free_bytes - tables) / each)))


class Steps(Messages):
    """Actor that keeps what rank 0 reports."""

    def __init__(self) -> None:
        super().__init__()
        self._figures: list[dict[str, Any]] = []

    def post(self, figures: dict[str, Any]) -> None:
        """Takes one step's figures."""
        self._figures.append(figures)

    def flush(self) -> None:
        """Nothing waits."""

    def figures(self) -> list[dict[str, Any]]:
        """All that came."""
        return self._figures


def ray_over_plain(options: Train, benchmark: StepBenchmark) -> float:
    """Median step time of the training loop under Ray Train over that of the same loop in processes of its own."""
    use_gpu = torch.cuda.is_available()
    scaling = ScalingConfig(num_workers=1 if use_gpu else 2, use_gpu=use_gpu, cpus_per_worker=8 if use_gpu else 1)
    samples = benchmark.rows * benchmark.samples_per_row * scaling.num_workers
    stage = StageConfig(
        purpose="benchmark",
        guidance_dropout=0.0,
        steps=options.loop_steps,
        global_batch_size=samples,
        micro_batch_size=benchmark.rows,
        seq_len=benchmark.samples_per_row * (benchmark.text_ids + benchmark.num_codes),
        row_multiple=benchmark.row_multiple,
        language_shares={"en": 1.0},
        attention=benchmark.attention,
        compile_layers=benchmark.compile_layers,
        save_every_steps=options.loop_steps + 1,
    )
    # DeepSpeed's optimizer holds 16 bytes a trained parameter, where the step above holds 8: half the layers.
    config = with_layers(benchmark.config, max(1, benchmark.config.num_hidden_layers // 2))
    zero = ZeroConfig(zero_stage=3, dtype=str(benchmark.dtype).removeprefix("torch."))
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        run = synthetic_run(Path(folder), config, stage, zero, benchmark.text_ids, benchmark.num_codes)
        release_gpu_memory()
        loops = {"without Ray": without_ray, "under Ray Train": under_ray_train}
        for number in range(options.loop_runs + 1):
            order = list(loops) if number % 2 else list(reversed(loops))
            times = {}
            for name in order:
                steps = loops[name](replace(run, output=Path(folder) / f"{name}{number}"), scaling)
                times[name] = statistics.median(each["step_s"] for each in steps[len(steps) // 3 :])
            told = ", ".join(f"{times[name]:.3f} s a step {name}" for name in order)
            say(f"loop {number}/{options.loop_runs}: {told}{'' if number else ' (not counted)'}")
            ratios.append(times["under Ray Train"] / times["without Ray"])
    return statistics.median(ratios[1:])


def without_ray(run: StageRun, scaling: ScalingConfig) -> list[dict[str, Any]]:
    """Rank 0's figures of every step, with no Ray on the machine but one that ran before."""
    return run_stage_without_ray(run, scaling.num_workers, scaling.use_gpu, scaling.cpus_per_worker)


def under_ray_train(run: StageRun, scaling: ScalingConfig) -> list[dict[str, Any]]:
    """Rank 0's figures of every step."""
    connect_to_ray()
    steps: Any = ray.remote(num_cpus=0)(Steps).remote()
    run_workers(partial(train_stage, run), scaling, "benchmark", run.output / "ray_train", steps)
    figures = ray.get(steps.figures.remote())
    ray.shutdown()
    return figures


def release_gpu_memory() -> None:
    """Compiled layers refer to themselves: their memory waits for the garbage collector."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    run_job(Options, main, __doc__)
