"""Measures Ray's overhead: alternates the same training loop under Ray Train and without it."""

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import torch
from ray.actor import ActorProxy

from pipeline.architecture.geometries import with_layers
from pipeline.benchmarks.plain_training import run_stage_without_ray
from pipeline.benchmarks.step import StepBenchmark
from pipeline.benchmarks.step_settings import release_gpu_memory
from pipeline.benchmarks.synthetic import synthetic_run
from pipeline.config.scaling import ScalingConfig
from pipeline.config.stage import StageConfig
from pipeline.config.zero import ZeroConfig
from pipeline.launch.ray_train import join_worker_group, run_worker_group, worker_group
from pipeline.launch.reporting import Monitor, RankReporter
from pipeline.runtime.actors import actor_here
from pipeline.runtime.ray_connection import connect_to_ray
from pipeline.runtime.terminal import say
from pipeline.step_figures import StepFigures
from pipeline.training.loop import train_stage
from pipeline.training.stage_run import StageRun
from pipeline.training.stop_request import StopRequest


def ray_over_plain(benchmark: StepBenchmark, loop_steps: int, loop_runs: int) -> float:
    """Returns the median step time of the training loop under Ray Train, divided by that of the same loop without Ray.

    Args:
        benchmark: model, micro-batch and settings.
        loop_steps: steps of each run; the first third is not counted.
        loop_runs: measured runs of each, alternating, after one warmup run of each.
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
    # DeepSpeed's optimizer holds 16 bytes a trained parameter; the step above holds 8, so use half the layers.
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
                times[name] = statistics.median(each.step_s for each in steps[len(steps) // 3 :])
            listed = ", ".join(f"{times[name]:.3f} s a step {name}" for name in order)
            say(f"loop {number}/{loop_runs}: {listed}{'' if number else ' (not counted)'}")
            ratios.append(times["under Ray Train"] / times["without Ray"])
    return statistics.median(ratios[1:])


def without_ray(run: StageRun, scaling: ScalingConfig) -> list[StepFigures]:
    """Returns rank 0's figures for every step. No Ray runs on the machine except one started earlier."""
    return run_stage_without_ray(run, scaling.num_workers, scaling.use_gpu, scaling.cpus_per_worker)


def under_ray_train(run: StageRun, scaling: ScalingConfig) -> list[StepFigures]:
    """Returns rank 0's figures for every step."""
    connect_to_ray()
    recorder = actor_here(StepRecorder).remote()
    run_worker_group(worker_group(BenchmarkWorker(run, recorder), scaling, "benchmark", run.output / "ray_train"))
    figures = ray.get(recorder.figures.remote())
    ray.shutdown()
    return figures


class StepRecorder(Monitor[StepFigures]):
    """Actor that records rank 0's figures."""

    def __init__(self) -> None:
        super().__init__()
        self._figures: list[StepFigures] = []

    @ray.method
    def post(self, figures: StepFigures) -> None:
        self._figures.append(figures)

    @ray.method
    def figures(self) -> list[StepFigures]:
        return self._figures


class UnwatchedReporter(RankReporter[StepFigures]):
    """A `StageReporter` without a watchdog that never asks for a stop."""

    def heartbeat(self) -> None:
        """Does nothing."""

    def stop_requested(self) -> StopRequest | None:
        return None


@dataclass(frozen=True)
class BenchmarkWorker:
    """Trains as one rank. Called in the worker's process."""

    run: StageRun
    recorder: ActorProxy[StepRecorder]

    def __call__(self) -> None:
        context = join_worker_group()
        reporter = UnwatchedReporter(self.recorder, context.rank)
        try:
            train_stage(self.run, context.device, reporter)
        finally:
            reporter.flush()
