"""The actor that watches one attempt at a stage and receives its figures."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import ray

from pipeline.config.stage import StageConfig
from pipeline.launch.attempt_watch import AttemptWatch
from pipeline.launch.prometheus import StageMetrics
from pipeline.runs.step_figures import METRICS_FILE
from pipeline.runtime.messages import Messages
from pipeline.training.stop_request import StopRequest
from tokenization.files.atomic_writing import append_whole

MOST_UNWRITTEN = 100_000
"""Lines of figures kept while the disk takes none, about 50 MB."""


class StageMonitor(Messages, AttemptWatch):
    """Actor that takes rank 0's figures: tells them, keeps them as JSON lines, and counts them in the ledger. It also
    watches over the attempt."""

    def __init__(self, run_name: str, stage_number: int, stage: StageConfig, folder: Path, ledger: Any) -> None:
        Messages.__init__(self)
        AttemptWatch.__init__(self, folder, stage.step_timeout_s, self.log)
        self._stage_number, self._steps, self._every = stage_number, stage.steps, stage.log_every_steps
        self._metrics, self._ledger = folder / METRICS_FILE, ledger
        self._counting: list[ray.ObjectRef] = []
        self._shown = StageMetrics(run_name, str(stage_number))
        self._recent: list[dict[str, Any]] = []
        self._unwritten: list[str] = []

    def post(self, figures: dict[str, Any]) -> None:
        """Takes one step's figures."""
        self._recent.append(figures)
        self._shown.show(figures)
        self._counting.append(self._ledger.train_step.remote(figures))
        self._check_limits()
        if measured := {name: value for name, value in figures.items() if name.startswith("validation/")}:
            told = "  ".join(f"{name.removeprefix('validation/')} {value:.2f}" for name, value in measured.items())
            self.log(f"stage {self._stage_number}  step {figures['step']}  held out: {told}")
        if figures["step"] % self._every == 0 or figures["step"] == self._steps:
            self.flush()

    def _check_limits(self) -> None:
        """Hears what the ledger says to steps before, and waits for nothing."""
        answers, self._counting = ray.wait(self._counting, num_returns=len(self._counting), timeout=0)
        for answer in answers:
            try:
                warnings, stop = ray.get(answer)
            except ray.exceptions.RayError as error:
                self.log(f"the ledger did not count a step ({type(error).__name__}); its rows say less than was done")
                continue
            for warning in warnings:
                self.log(warning)
            if stop:
                self.request_stop(StopRequest("budget", stop))

    def flush(self) -> None:
        """Tells a line over the steps since the last one."""
        if not self._recent:
            return
        sums: dict[str, list[float]] = defaultdict(list)
        for figures in self._recent:
            for name, value in figures.items():
                sums[name].append(value)
        mean = {name: sum(values) / len(values) for name, values in sums.items()}
        losses = "  ".join(f"{name[5:]} {value:.3f}" for name, value in mean.items() if name.startswith("loss/"))
        self.log(
            f"stage {self._stage_number}  step {self._recent[-1]['step']}/{self._steps}  {losses}  "
            f"{sum(sums['tokens']) / sum(sums['step_s']):,.0f} tokens/s  {mean['step_s']:.2f} s/step"
            + (f"  MFU {mean['mfu']:.2f}" if "mfu" in mean else "")
            + (f"  {skipped} steps skipped" if (skipped := self._recent[-1]["skipped_steps"]) else "")
            + f"  waits for data {sum(sums['data_wait_s']) / sum(sums['step_s']):.1%}"
            + (f"  for checkpoints {mean['checkpoint_stall_share']:.1%}" if "checkpoint_stall_share" in mean else "")
        )
        self._unwritten += [json.dumps(figures) + "\n" for figures in self._recent]
        self._recent.clear()
        try:
            append_whole(self._metrics, "".join(self._unwritten))
            self._unwritten.clear()
        except OSError as error:
            self.log(f"stage {self._stage_number}  {self._metrics.name} cannot be written, tried again later: {error}")
            del self._unwritten[:-MOST_UNWRITTEN]
