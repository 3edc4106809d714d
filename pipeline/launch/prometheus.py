"""A stage's figures as Prometheus metrics, through Ray, which prefixes their names with `ray_`."""

from ray.util.metrics import Gauge

from pipeline.step_figures import StepFigures

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


class StageMetrics:
    """Exports each step's figures. Every metric has the tags `run` and `stage`; `mars_loss` also has `task`."""

    def __init__(self, run: str, stage: str) -> None:
        tags = {"run": run, "stage": stage}
        self._gauges = {name: Gauge(name, what, tuple(tags)) for name, what in GAUGES.items()}
        self._loss = Gauge("mars_loss", "Mean cross-entropy of a task's labels, nats, last step", ("task", *tags))
        for gauge in (*self._gauges.values(), self._loss):
            gauge.set_default_tags(tags)

    def show(self, figures: StepFigures) -> None:
        """Sets the gauges to a step's figures. A gauge whose figure is missing keeps its value."""
        values = {
            "mars_step": figures.step,
            "mars_step_s": figures.step_s,
            "mars_tokens_per_s": figures.tokens / figures.step_s,
            "mars_mfu": figures.mfu,
            "mars_gradient_norm": figures.gradient_norm,
            "mars_learning_rate": figures.learning_rate,
            "mars_data_wait_s": figures.data_wait_s,
            "mars_checkpoint_stall_s": figures.checkpoint.seconds if figures.checkpoint else None,
            "mars_skipped_steps": figures.skipped_steps,
        }
        for name, value in values.items():
            if value is not None:
                self._gauges[name].set(float(value))
        for task, loss in figures.losses.items():
            self._loss.set(loss, {"task": task})
