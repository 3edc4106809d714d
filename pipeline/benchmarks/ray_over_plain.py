"""What Ray costs: the same training loop under Ray Train and without it, by turns."""

import gc
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from pipeline.architecture.geometries import with_layers
from pipeline.benchmarks.plain_training import run_stage_without_ray
from pipeline.benchmarks.step import StepBenchmark
from pipeline.benchmarks.synthetic import synthetic_run
from pipeline.config.scaling import ScalingConfig
from pipeline.config.stage import StageConfig
from pipeline.config.zero import ZeroConfig
from pipeline.launch.ray_train import run_workers
from pipeline.runtime.messages import Messages
from pipeline.runtime.placement import actor_here
from pipeline.runtime.ray_connection import connect_to_ray
from pipeline.runtime.terminal import say
from pipeline.training.loop import train_stage
from pipeline.training.stage_run import StageRun


def ray_over_plain(benchmark: StepBenchmark, loop_steps: int, loop_runs: int) -> float:
    """Median step time of the training loop under Ray Train over that of the same loop in processes of its own.

    Args:
        benchmark: model, micro-batch and settings.
        loop_steps: of each run; the first third does not count.
        loop_runs: runs of each that count, by turns, after one of each that does not.
    """
    use_gpu = torch.cuda.is_available()
    scaling = ScalingConfig(num_workers=1 if use_gpu else 2, use_gpu=use_gpu, cpus_per_worker=8 if use_gpu else 1)
    samples = benchmark.rows * benchmark.samples_per_row * scaling.num_workers
    stage = StageConfig(
        purpose="benchmark",
        guidance_dropout=0.0,
        steps=loop_steps,
        global_batch_size=samples,
        micro_batch_size=benchmark.rows,
        seq_len=benchmark.samples_per_row * (benchmark.text_ids + benchmark.num_codes),
        row_multiple=benchmark.row_multiple,
        language_shares={"en": 1.0},
        attention=benchmark.attention,
        compile_layers=benchmark.compile_layers,
        save_every_steps=loop_steps + 1,
    )
    # DeepSpeed's optimizer holds 16 bytes a trained parameter, where the step above holds 8: half the layers.
    config = with_layers(benchmark.config, max(1, benchmark.config.num_hidden_layers // 2))
    zero = ZeroConfig(zero_stage=3, dtype=str(benchmark.dtype).removeprefix("torch."))
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        run = synthetic_run(Path(folder), config, stage, zero, benchmark.text_ids, benchmark.num_codes)
        release_gpu_memory()
        loops = {"without Ray": without_ray, "under Ray Train": under_ray_train}
        for number in range(loop_runs + 1):
            order = list(loops) if number % 2 else list(reversed(loops))
            times = {}
            for name in order:
                output = Path(folder) / f"{name}{number}"
                steps = loops[name](replace(run, output=output, checkpoints=str(output / "checkpoints")), scaling)
                times[name] = statistics.median(each["step_s"] for each in steps[len(steps) // 3 :])
            told = ", ".join(f"{times[name]:.3f} s a step {name}" for name in order)
            say(f"loop {number}/{loop_runs}: {told}{'' if number else ' (not counted)'}")
            ratios.append(times["under Ray Train"] / times["without Ray"])
    return statistics.median(ratios[1:])


def without_ray(run: StageRun, scaling: ScalingConfig) -> list[dict[str, Any]]:
    """Rank 0's figures of every step, with no Ray on the machine but one that ran before."""
    return run_stage_without_ray(run, scaling.num_workers, scaling.use_gpu, scaling.cpus_per_worker)


def under_ray_train(run: StageRun, scaling: ScalingConfig) -> list[dict[str, Any]]:
    """Rank 0's figures of every step."""
    connect_to_ray()
    steps: Any = actor_here(Steps).remote()
    run_workers(partial(train_stage, run), scaling, "benchmark", run.output / "ray_train", steps)
    figures = ray.get(steps.figures.remote())
    ray.shutdown()
    return figures


def release_gpu_memory() -> None:
    """Compiled layers refer to themselves: their memory waits for the garbage collector."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


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
