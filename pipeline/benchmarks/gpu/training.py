"""The real training loop as the only rank, with real collectives: some steps, a checkpoint, a stop, and a resume."""

import os
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch.distributed as dist

from pipeline.architecture.geometries import GEOMETRIES
from pipeline.benchmarks.gpu.bench import SMALL, GpuBench
from pipeline.benchmarks.gpu.parts import CUDA_ONLY
from pipeline.benchmarks.gpu.recorder import Recorder
from pipeline.benchmarks.synthetic import synthetic_run
from pipeline.config.stage import StageConfig
from pipeline.errors import PreemptedError
from pipeline.runtime.rank import ONLY_RANK
from pipeline.runtime.terminal import say
from pipeline.step_figures import StepFigures
from pipeline.training.loop import train_stage
from pipeline.training.process import set_up_process
from pipeline.training.stage_run import StageRun
from pipeline.training.stop_request import StopRequest

STEPS, STOP_AFTER = 6, 3
SAMPLES, SMALL_SAMPLES = 16, 4
TEXT_IDS, NUM_CODES = 77, 256
SMALL_TEXT_IDS, SMALL_NUM_CODES = 6, 16


@dataclass(frozen=True)
class _Reporter:
    """Keeps the figures, and asks for a stop after the step `stop_after` (0: never)."""

    stop_after: int = 0
    figures: list[StepFigures] = field(default_factory=list)

    def post(self, figures: StepFigures) -> None:
        self.figures.append(figures)

    def log(self, line: str) -> None:
        say(line)

    def heartbeat(self) -> None:
        """Does nothing."""

    def stop_requested(self) -> StopRequest | None:
        due = self.stop_after and self.figures and self.figures[-1].step >= self.stop_after
        return StopRequest("preempted", "the benchmark stops here") if due else None


def measure(bench: GpuBench, record: Recorder) -> None:
    """Trains undisturbed, and once more with a stop and a resume, and compares the losses."""
    with tempfile.TemporaryDirectory() as folder:
        run = _run(bench, Path(folder))
        set_up_process(ONLY_RANK, bench.device)
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        backend = "nccl" if bench.on_gpu else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)
        record.figures(backend=backend)
        undisturbed = _train(bench, run, _Reporter(), record, "undisturbed")
        again = replace(run, output=Path(folder) / "again", checkpoints=f"{folder}/again/checkpoints")
        stopped = _train(bench, again, _Reporter(STOP_AFTER), record, "stopped")
        resumed = _train(bench, again, _Reporter(), record, "resumed")
    losses = [list(each.losses.values()) for each in undisturbed]
    others = [list(each.losses.values()) for each in (*stopped, *resumed)]
    record.figures(
        steps_before_stop=len(stopped),
        steps_after_resume=len(resumed),
        largest_loss_difference=max(
            abs(one - other)
            for of_one, of_other in zip(losses, others, strict=True)
            for one, other in zip(of_one, of_other, strict=True)
        ),
        step_s=min(each.step_s for each in undisturbed),
        mfu=undisturbed[-1].mfu or CUDA_ONLY,
    )


def _train(bench: GpuBench, run: StageRun, reporter: _Reporter, record: Recorder, name: str) -> list[StepFigures]:
    started = time.monotonic()
    try:
        train_stage(run, bench.device, reporter)
    except PreemptedError as error:
        if not reporter.stop_after:
            raise
        say(str(error))
    record.figures(**{f"{name}_s": time.monotonic() - started})
    return reporter.figures


def _run(bench: GpuBench, folder: Path) -> StageRun:
    text_ids, num_codes = (TEXT_IDS, NUM_CODES) if bench.on_gpu else (SMALL_TEXT_IDS, SMALL_NUM_CODES)
    samples = SAMPLES if bench.on_gpu else SMALL_SAMPLES
    stage = StageConfig(
        purpose="benchmark",
        guidance_dropout=0.0,
        steps=STEPS,
        global_batch_size=samples,
        micro_batch_size=2,
        seq_len=samples // 2 * (text_ids + num_codes),
        row_multiple=bench.stage.row_multiple,
        language_shares={"en": 1.0},
        attention=bench.stage.attention,
        compile_layers=bench.stage.compile_layers,
        checkpoint_every_layers=1,
        save_every_steps=STEPS + 1,
    )
    config = GEOMETRIES["small"] if bench.on_gpu else SMALL
    return synthetic_run(folder, config, stage, bench.zero, text_ids, num_codes)
