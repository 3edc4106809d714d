"""The actor that watches one attempt at a stage and receives its figures."""

import json
from pathlib import Path
from statistics import fmean

import ray
from ray.actor import ActorHandle, ActorProxy

from pipeline.config.stage import StageConfig
from pipeline.launch.attempt_watchdog import AttemptWatchdog
from pipeline.launch.prometheus import StageMetrics
from pipeline.launch.reporting import Monitor
from pipeline.ledger.actor import LedgerActor
from pipeline.step_figures import METRICS_FILE, StepFigures
from pipeline.training.stop_request import StopRequest
from tokenization.files.atomic_writing import append_whole

MAX_UNWRITTEN = 100_000
"""Lines of figures kept in memory while the disk cannot be written, about 50 MB."""


class StageMonitor(Monitor[StepFigures]):
    """Actor that takes rank 0's figures: logs them, appends them to JSON lines, and counts them in the ledger.

    It also watches the attempt.

    Args:
        run_name: name of the recipe.
        stage_number, stage: the stage that trains.
        folder: folder of the stage.
        ledger: ledger actor of the attempt.
    """

    def __init__(
        self, run_name: str, stage_number: int, stage: StageConfig, folder: Path, ledger: ActorProxy[LedgerActor]
    ) -> None:
        super().__init__()
        self._watch = AttemptWatchdog(folder, stage.step_timeout_s, self._keep)
        self._name, self._steps, self._log_every = f"stage {stage_number}", stage.steps, stage.log_every_steps
        self._metrics, self._ledger = folder / METRICS_FILE, ledger
        self._counting: list[ray.ObjectRef[tuple[list[str], str]]] = []
        self._gauges = StageMetrics(run_name, str(stage_number))
        self._recent: list[StepFigures] = []
        self._unwritten: list[str] = []
        self._has_trained = False

    @ray.method
    def post(self, figures: StepFigures) -> None:
        self._has_trained = True
        self._recent.append(figures)
        self._gauges.show(figures)
        self._counting.append(self._ledger.train_step.remote(figures))
        self._check_limits()
        if figures.validation:
            measured = "  ".join(f"{name} {value:.2f}" for name, value in figures.validation.items())
            self._keep(f"{self._name}  step {figures.step}  held out: {measured}")
        if figures.step % self._log_every == 0 or figures.step == self._steps:
            self._write_figures()

    @ray.method
    def flush(self) -> None:
        """Logs and writes the figures since the last logged line."""
        self._write_figures()

    @ray.method
    def joined(self, rank: int, worker: ActorHandle[object], where: str) -> None:
        self._watch.joined(rank, worker, where)

    @ray.method
    def has_workers(self) -> bool:
        return self._watch.has_workers()

    @ray.method
    def has_trained(self) -> bool:
        """True once a step of the attempt is done."""
        return self._has_trained

    @ray.method
    def heartbeat(self) -> None:
        self._watch.heartbeat()

    @ray.method
    def request_stop(self, request: StopRequest) -> None:
        self._watch.request_stop(request)

    @ray.method
    def stop_requested(self) -> StopRequest | None:
        return self._watch.stop_requested()

    def _check_limits(self) -> None:
        """Handles the ledger's answers to earlier steps, without waiting for outstanding ones."""
        answers, self._counting = ray.wait(self._counting, num_returns=len(self._counting), timeout=0)
        for answer in answers:
            try:
                warnings, stop = ray.get(answer)
            except ray.exceptions.RayError as error:
                self._keep(f"the ledger did not count a step ({type(error).__name__}); its rows lack this step")
                continue
            for warning in warnings:
                self._keep(warning)
            if stop:
                self._watch.request_stop(StopRequest("budget", stop))

    def _write_figures(self) -> None:
        if not self._recent:
            return
        self._keep(f"{self._name}  {summary_line(self._recent, self._steps)}")
        self._unwritten += [json.dumps(figures.to_json()) + "\n" for figures in self._recent]
        self._recent.clear()
        try:
            append_whole(self._metrics, "".join(self._unwritten))
            self._unwritten.clear()
        except OSError as error:
            self._keep(f"{self._name}  {self._metrics.name} cannot be written, tried again later: {error}")
            del self._unwritten[:-MAX_UNWRITTEN]


def summary_line(recent: list[StepFigures], steps: int) -> str:
    """Formats a line about some steps of a stage: means over them, and values of the last step."""
    last, step_s = recent[-1], sum(figures.step_s for figures in recent)
    tasks = dict.fromkeys(task for figures in recent for task in figures.losses)
    losses = {task: fmean(figures.losses[task] for figures in recent if task in figures.losses) for task in tasks}
    mfus = [figures.mfu for figures in recent if figures.mfu is not None]
    stall_shares = [figures.checkpoint.share for figures in recent if figures.checkpoint]
    parts = [
        f"step {last.step}/{steps}",
        *(f"{task} {loss:.3f}" for task, loss in losses.items()),
        f"{sum(figures.tokens for figures in recent) / step_s:,.0f} tokens/s",
        f"{step_s / len(recent):.2f} s/step",
        *([f"MFU {fmean(mfus):.2f}"] if mfus else []),
        *([f"{last.skipped_steps} steps skipped"] if last.skipped_steps else []),
        f"waits for data {sum(figures.data_wait_s for figures in recent) / step_s:.1%}",
        *([f"for checkpoints {fmean(stall_shares):.1%}"] if stall_shares else []),
    ]
    return "  ".join(parts)
