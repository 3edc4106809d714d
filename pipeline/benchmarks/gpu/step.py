"""A training step of the recipe as one of many ranks, whose collectives return at once: the time of host and kernels.

The gathered values are garbage, and so is the loss. The variant without DeepSpeed computes real values.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle
from statistics import median

import torch

from pipeline.benchmarks.gpu.bench import GpuBench, MicroSteps
from pipeline.benchmarks.gpu.kernels import device_work
from pipeline.benchmarks.gpu.parts import CUDA_ONLY
from pipeline.benchmarks.gpu.recorder import Recorder
from pipeline.benchmarks.step import device_name
from pipeline.config.gpus import peak_flop_per_s
from pipeline.config.stage import StageConfig
from pipeline.config.zero import ZeroConfig
from pipeline.data.loader import lone_loader
from pipeline.planning.flops import count_parameters, flop_of
from pipeline.planning.memory import MemoryPlan, RowShape, memory_plan
from pipeline.runtime.torch_private import fail_on_too_many_graphs, join_fake_group
from pipeline.training.engine import Engine, accumulate, make_engine
from pipeline.training.objective import Objective
from pipeline.training.process import set_up_process

SHAPES = 3
"""Steps of different lengths that take turns. `torch.compile` makes graphs for the first one, then for any lengths."""
ROUNDS, WARMUP = 5, 2

RunStep = Callable[[MicroSteps], None]


def measure_recipe(bench: GpuBench, record: Recorder) -> None:
    """The recipe's own partitioning; also beside a loader that builds steps without a pause."""
    _measure_engine(bench, record, bench.stage, bench.zero, beside_loader=True)


def measure_zero_2(bench: GpuBench, record: Recorder) -> None:
    """ZeRO-2 in place of the recipe's stage of ZeRO."""
    _measure_engine(bench, record, bench.stage, replace(bench.zero, zero_stage=2))


def measure_zero_2_kept(bench: GpuBench, record: Recorder) -> None:
    """ZeRO-2 without recomputation, with as many rows of the micro-batch as fit by the memory plan."""
    zero = replace(bench.zero, zero_stage=2)
    stage = replace(bench.stage, checkpoint_every_layers=0)
    while stage.micro_batch_size > 1 and not _fits(bench, _plan(bench, stage, zero, bench.steps(stage, 1))):
        stage = replace(stage, micro_batch_size=stage.micro_batch_size - 1)
    _measure_engine(bench, record, stage, zero)


def measure_plain(bench: GpuBench, record: Recorder) -> None:
    """Forward and backward pass without DeepSpeed and without an update: the kernels and torch's own host time."""
    fail_on_too_many_graphs()
    objective = Objective(bench.model(bench.stage), bench.stage.normalisation)

    def run(micro_steps: MicroSteps) -> None:
        for batches in micro_steps:
            objective(batches).loss.backward()
        objective.zero_grad(set_to_none=True)

    _measure(bench, record, bench.stage, bench.steps(bench.stage, SHAPES), run, None)


def _measure_engine(
    bench: GpuBench, record: Recorder, stage: StageConfig, zero: ZeroConfig, beside_loader: bool = False
) -> None:
    steps = bench.steps(stage, SHAPES)
    engine = fake_engine(bench, stage, zero, bench.config.num_hidden_layers)

    def run(micro_steps: MicroSteps) -> None:
        run_step(engine, micro_steps)

    alone_s = _measure(bench, record, stage, steps, run, _plan(bench, stage, zero, steps))
    record.figures(skipped_updates=engine.skipped_steps)
    if beside_loader:
        following = cycle(steps)
        with loader_running(bench, stage):
            beside_s = median(bench.seconds(lambda: run(next(following)), ROUNDS))
        record.figures(step_beside_loader_s=beside_s, beside_loader_over_alone=beside_s / alone_s)


def fake_engine(bench: GpuBench, stage: StageConfig, zero: ZeroConfig, layers: int) -> Engine:
    """An engine around the recipe's model as the first of `bench.ranks` ranks."""
    set_up_process(bench.rank, bench.device)
    join_fake_group(bench.ranks)
    model = bench.model(stage, layers)
    if zero.frozen_whole:
        model.keep_frozen_whole()
    return make_engine(Objective(model, stage.normalisation), stage, zero)


def run_step(engine: Engine, micro_steps: MicroSteps) -> None:
    """Runs forward, backward and update, without the loop's checks of the loss."""
    for number, batches in enumerate(micro_steps, start=1):
        accumulate(engine, engine(batches).loss, last=number == len(micro_steps))
        engine.step()


def _measure(
    bench: GpuBench,
    record: Recorder,
    stage: StageConfig,
    steps: list[MicroSteps],
    run: RunStep,
    plan: MemoryPlan | None,
) -> float:
    """Records a step's figures: of one shape, whose graphs are compiled first, then of all shapes.

    Returns:
        The median seconds of a step of any shape.
    """
    (first_s,) = bench.seconds(lambda: run(steps[0]), rounds=1, warmup=0)
    record.figures(
        first_step_s=first_s,
        layers=bench.config.num_hidden_layers,
        micro_batch_size=stage.micro_batch_size,
        micro_steps=len(steps[0]),
    )
    for _ in range(WARMUP):
        run(steps[0])
    gc.collect()
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
    host_s = []

    def timed() -> None:
        started = time.process_time()
        run(steps[0])
        host_s.append(time.process_time() - started)

    own_s = median(bench.seconds(timed, ROUNDS, warmup=0))
    record.figures(
        step_of_one_shape_s=own_s, host_cpu_s=median(host_s), mfu_of_one_shape=_mfu(bench, stage, steps[:1], own_s)
    )
    _on_device(bench, record, lambda: run(steps[0]), own_s, plan)
    for _ in range(WARMUP):
        for each in steps[1:]:
            run(each)
    following = cycle(steps)
    step_s = median(bench.seconds(lambda: run(next(following)), SHAPES * ROUNDS, warmup=0))
    flop = _flop(bench, stage, steps)
    record.figures(step_s=step_s, flop_per_step=flop, flop_per_s=flop / step_s, mfu=_mfu(bench, stage, steps, step_s))
    return step_s


def _on_device(
    bench: GpuBench, record: Recorder, run: Callable[[], None], step_s: float, plan: MemoryPlan | None
) -> None:
    """Records the peak of memory so far, and what runs on the device during a step."""
    if not bench.on_gpu:
        record.figures(idle_share=CUDA_ONLY, peak_memory_bytes=CUDA_ONLY)
        return
    peak_bytes = torch.cuda.max_memory_allocated(bench.device)
    record.figures(peak_memory_bytes=peak_bytes)
    if plan:
        planned = replace(plan, start=0).peak - plan.runtime
        record.figures(planned_memory_bytes=planned, memory_over_plan=peak_bytes / planned)
    work = device_work(run)
    record.figures(idle_share=max(0.0, 1 - work.busy_s / step_s), kernels_s=work.by_kernel)


def _mfu(bench: GpuBench, stage: StageConfig, steps: list[MicroSteps], step_s: float) -> float | str:
    peak = peak_flop_per_s(device_name(bench.device))
    return _flop(bench, stage, steps) / step_s / peak if peak else CUDA_ONLY


def _flop(bench: GpuBench, stage: StageConfig, steps: list[MicroSteps]) -> float:
    """The mean FLOP of steps."""
    batches = [batch for micro_steps in steps for batches in micro_steps for batch in batches]
    return sum(flop_of(batch, bench.config, stage.normalisation).total for batch in batches) / len(steps)


def _plan(bench: GpuBench, stage: StageConfig, zero: ZeroConfig, steps: list[MicroSteps]) -> MemoryPlan:
    """The memory plan of the first micro-step."""
    shapes = [
        RowShape(
            batch.kind,
            batch.text.ids.shape[0],
            batch.text.ids.shape[1],
            batch.visual.ids.shape[1],
            batch.num_text_labels + batch.num_code_labels,
        )
        for batch in steps[0][0]
    ]
    return memory_plan(
        bench.config, count_parameters(bench.config), stage, zero, bench.ranks, shapes, use_gpu=bench.on_gpu
    )


def _fits(bench: GpuBench, plan: MemoryPlan) -> bool:
    return not bench.on_gpu or plan.peak <= torch.cuda.get_device_properties(bench.device).total_memory


@contextmanager
def loader_running(bench: GpuBench, stage: StageConfig) -> Iterator[None]:
    """The loader builds one step after the other while the code inside runs: on a GPU in a process, as in training."""
    loader = lone_loader(partial(bench.plan, stage), 0, bench.ranks, in_process=bench.on_gpu)
    ended = threading.Event()
    loader.step(0)

    def receive() -> None:
        number = 1
        while not ended.is_set():
            loader.step(number)
            number += 1

    thread = threading.Thread(target=receive, name="loader")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        loader.close()
