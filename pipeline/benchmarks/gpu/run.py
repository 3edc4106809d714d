"""Runs the parts one after the other, each in a process with a clock of its own.

A part that fails, crashes or passes its time is recorded with its error, and the next one begins. Neither this process
nor the one from which parts are forked touches the device, so a part's end frees all of its memory.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
import uuid
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib import import_module
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pipeline.benchmarks.gpu.parts import MACHINE, PARTS, Part
from pipeline.benchmarks.gpu.recorder import Recorder, results_of
from pipeline.benchmarks.gpu.summary import summary
from pipeline.config.benchmarks import GpuSettings
from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError
from pipeline.runs.paths import checkout
from pipeline.runtime.terminal import say

PRELOAD = "pipeline.benchmarks.gpu.preload"
Context = ForkServerContext | SpawnContext


@dataclass(frozen=True)
class _Job:
    """The inputs of a part's process."""

    function: str
    settings: GpuSettings
    recipe: Recipe
    recorder: Recorder


def benchmark_gpu(settings: GpuSettings, recipe: Recipe) -> dict[str, Any]:
    """Measures all parts, or those that the settings name, with the recipe's first stage.

    Returns:
        See `summary`.

    Raises:
        UsageError: a part is unknown, or the recipe has no stages.
    """
    parts = _chosen(settings.parts)
    if not recipe.stages:
        raise UsageError(f"recipe {recipe.name!r} has no stages")
    path = Path(settings.results or checkout() / "runs" / "gpu_benchmark.jsonl").absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the command line's own class, which the parts' processes would have to import.
    settings = GpuSettings(**{field.name: getattr(settings, field.name) for field in fields(GpuSettings)})
    _set_up_environment()
    run = uuid.uuid4().hex[:8]
    for package in sorted({package for part in parts for package in part.missing}):
        names = ", ".join(part.name for part in parts if package in part.missing)
        say(f"gpu: {package} is not installed, which leaves out: {names}")
    say(f"gpu: run {run}, figures go to {path}")
    started, ends = time.monotonic(), time.monotonic() + 60 * settings.minutes
    context = _context()
    for number, part in enumerate(parts):
        rest = sum(each.share for each in parts[number:] if not each.missing)
        recorder = Recorder(path, run, part.name)
        if part.missing:
            recorder.error(f"{' and '.join(part.missing)} is not installed")
            continue
        limit_s = max(0.0, ends - time.monotonic()) * part.share / rest
        job = _Job(part.function, settings, recipe, recorder)
        _run(context, job, limit_s)
        if part is MACHINE and any("CUDA" in error for error in results_of(path, run)[part.name]["errors"]):
            say("gpu: the device could not be used in a forked process; each part starts a new process instead")
            context = multiprocessing.get_context("spawn")
            _run(context, job, limit_s)
        _tell(part, path, run, limit_s)
    return summary(results_of(path, run), run, path, time.monotonic() - started)


def _chosen(names: tuple[str, ...]) -> list[Part]:
    known = [part.name for part in PARTS]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--parts {unknown[0]}: there is no such part; the parts are {', '.join(known)}")
    return [part for part in PARTS if not names or part is MACHINE or part.name in names]


def _set_up_environment() -> None:
    """Sets what the parts' processes read: where the project is, and that a look for a GPU must not initialize CUDA."""
    project = str(Path(__file__).parents[3])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _context() -> Context:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    return context


def _run(context: Context, job: _Job, limit_s: float) -> None:
    run_process(context.Process(target=_measure, args=(job,)), job.recorder, limit_s)


def run_process(process: BaseProcess, recorder: Recorder, limit_s: float) -> None:
    """Runs the process of a part, ends it and all it started when its time is over, and records how it ended."""
    started = time.monotonic()
    process.start()
    assert process.pid is not None
    try:
        process.join(limit_s)
        in_time = not process.is_alive()
    finally:
        with suppress(ProcessLookupError):  # also ends what it started, as for compilation
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    if not in_time:
        recorder.error(f"took longer than its {limit_s:.0f} s; its figures up to then are kept")
    elif process.exitcode:
        recorder.error(f"its process ended with exit code {process.exitcode}")
    recorder.ended(time.monotonic() - started)


def _measure(job: _Job) -> None:
    """The part's process."""
    os.setsid()  # a group of its own, which can be ended as a whole
    try:
        from pipeline.benchmarks.gpu.bench import GpuBench

        module, _, function = job.function.partition(".")
        measure = getattr(import_module(f"pipeline.benchmarks.gpu.{module}"), function)
        measure(GpuBench.of(job.settings, job.recipe), job.recorder)
    except Exception as error:
        traceback.print_exc()
        job.recorder.error(f"{type(error).__name__}: {error}")
    sys.stdout.flush()
    os._exit(0)  # process groups and compilers that still run would delay the end


def _tell(part: Part, path: Path, run: str, limit_s: float) -> None:
    result = results_of(path, run)[part.name]
    errors = f"; {'; '.join(result['errors'])}" if result["errors"] else ""
    say(f"gpu: {part.name}: {len(result['figures'])} figures in {result['seconds']:.1f} of {limit_s:.0f} s{errors}")
