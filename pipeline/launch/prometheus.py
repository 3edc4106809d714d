"""A stage's figures as Prometheus metrics, through Ray, which puts `ray_` before their names."""

from typing import Any

from ray.util.metrics import Gauge

GAUGES = {
    "mars_step": "Optimizer steps done of the stage",
    "mars_step_s": "Seconds of the last optimizer step",
    "mars_tokens_per_s": "Tokens of the last step, all ranks, a second",
    "mars_mfu": "Model FLOP over what the GPUs could do at their peak, last step",
    "mars_gradient_norm": "Norm of the last step's gradient, before clipping",
    "mars_learning_rate": "Learning rate of the last step",
    "mars_data_wait_s": "Seconds that the last step waited for its samples",
    "mars_checkpoint_stall_s": "Seconds that training stood still for the last checkpoint",
    "mars_skipped_steps": "Steps that were not learned from, since the stage's start",
}
SAME = {"mars_step": "step", "mars_step_s": "step_s", "mars_mfu": "mfu", "mars_gradient_norm": "gradient_norm"}
SAME |= {"mars_learning_rate": "learning_rate", "mars_data_wait_s": "data_wait_s"}
SAME |= {"mars_checkpoint_stall_s": "checkpoint_stall_s", "mars_skipped_steps": "skipped_steps"}
"""Gauges that show a figure of the loop as it is."""


class StageMetrics:
    """Shows each step's figures. `run` and `stage` are tags of every metric; `mars_loss` has `task`, too."""

    def __init__(self, run: str, stage: str) -> None:
        tags = {"run": run, "stage": stage}
        self._gauges = {name: Gauge(name, what, tuple(tags)) for name, what in GAUGES.items()}
        self._loss = Gauge("mars_loss", "Mean cross-entropy of a task's labels, nats, last step", ("task", *tags))
        for gauge in (*self._gauges.values(), self._loss):
            gauge.set_default_tags(tags)

    def show(self, figures: dict[str, Any]) -> None:
        """Shows a step's figures, as `pipeline.training.loop` reports them; those that it lacks stay."""
        for name, figure in SAME.items():
            if figure in figures:
                self._gauges[name].set(float(figures[figure]))
        self._gauges["mars_tokens_per_s"].set(figures["tokens"] / figures["step_s"])
        for name, value in figures.items():
            if name.startswith("loss/"):
                self._loss.set(value, {"task": name.removeprefix("loss/")})
