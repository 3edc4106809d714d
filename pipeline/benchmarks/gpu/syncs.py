"""Counts the waits of the host for the device: in forward and backward pass, where there should be none, and in
DeepSpeed."""

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.benchmarks.gpu.bench import GpuBench, MicroSteps
from pipeline.benchmarks.gpu.parts import CUDA_ONLY
from pipeline.benchmarks.gpu.recorder import Recorder
from pipeline.benchmarks.gpu.step import fake_engine, run_step
from pipeline.runtime.torch_private import fail_on_too_many_graphs
from pipeline.training.objective import Objective

LAYERS, WARMUP = 2, 3
TO_HOST = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")
"""Operators whose result the host needs."""


def measure(bench: GpuBench, record: Recorder) -> None:
    """Records the waits of a micro-step with two layers, by where they are called."""
    fail_on_too_many_graphs()
    layers = min(LAYERS, bench.config.num_hidden_layers)
    steps = bench.steps(bench.stage, 2)
    with record.piece("objective"):
        _objective(bench, record, steps, layers)
    if find_spec("deepspeed") is None:
        record.error("engine: deepspeed is not installed")
        return
    with record.piece("engine"):
        engine = fake_engine(bench, bench.stage, bench.zero, layers)
        for each in steps * WARMUP:
            run_step(engine, each)
        if not bench.on_gpu:
            record.figures(engine_waits=CUDA_ONLY)
            return
        with _noted_waits(bench) as waits:
            run_step(engine, steps[0])
        record.figures(engine_waits=sum(waits.values()), engine_waits_by_caller=dict(waits.most_common(20)))


def _objective(bench: GpuBench, record: Recorder, steps: list[MicroSteps], layers: int) -> None:
    objective = Objective(bench.model(bench.stage, layers), bench.stage.normalisation)

    def run(micro_steps: MicroSteps) -> None:
        for batches in micro_steps:
            objective(batches).loss.backward()

    for each in steps * WARMUP:
        run(each)
    if not bench.on_gpu:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            run(steps[0])
        found = sum(event.count for event in profiler.key_averages() if event.key in TO_HOST)
        record.figures(values_to_host=found, objective_waits=CUDA_ONLY)
        return
    with _noted_waits(bench) as waits:
        run(steps[0])
    record.figures(objective_waits=sum(waits.values()), objective_waits_by_caller=dict(waits.most_common(20)))


@contextmanager
def _noted_waits(bench: GpuBench) -> Iterator[Counter[str]]:
    """Counts the operations inside that make the host wait, by the two innermost callers, of which torch warns."""
    waits: Counter[str] = Counter()

    def note(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if "synchroniz" not in str(message):
            return
        frames = [frame for frame in traceback.extract_stack()[:-1] if "/warnings.py" not in frame.filename]
        waits[" < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-2:]))] += 1

    bench.synchronise()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
