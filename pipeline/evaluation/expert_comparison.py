"""Compares SemVIE with one shared expert on the same data, steps and seed, and measures what each does to text.

*two* is SemVIE. *shared* is `pipeline.benchmarks.baselines.Dense`: one Qwen2 stack on the joint vocabulary that starts
from the language expert and learns from both text and pictures. Both train the same number of parameters with the same
initial values: all matrices of the layers, the visual embedding and the visual head. Norms, text embedding and text
head stay frozen in both. That favours the shared expert: its text can only degrade through the layers.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.benchmarks.baselines import Dense
from pipeline.config.tasks import Task
from pipeline.config.zero import ZeroConfig
from pipeline.data.loader import ThreadLoader, prefetch
from pipeline.errors import NonFiniteError
from pipeline.evaluation.text_drift import TextLogits, text_drift
from pipeline.model.loading import load_initial_model, load_language_expert
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.rank import ONLY_RANK
from pipeline.training.engine import make_engine
from pipeline.training.objective import Objective
from pipeline.training.process import set_up_process
from pipeline.training.stage_run import StageRun, plan_inputs
from pipeline.training.step import learning_rate, set_learning_rate, train_step
from pipeline.training.step_guard import StepGuard

EXPERTS = ("two", "shared")


@dataclass(frozen=True)
class Comparison:
    """Training data and measurements of both models.

    Attributes:
        run: stage with its rows, order, batches and learning rates; nothing is written.
        texts: ids of held-out texts that the drift is measured on.
        measurements: number of drift measurements, including the start and the end.
    """

    run: StageRun
    texts: list[list[int]]
    measurements: int = 9


def train_experts(experts: str, comparison: Comparison, report: Callable[[dict[str, Any]], None]) -> list[dict]:
    """Trains one of `EXPERTS` in this process, on the CPU or one GPU.

    Args:
        experts: one of `EXPERTS`.
        comparison: training data and measurements.
        report: called with each new record.

    Returns:
        One record a step: `step` (0 before the first), mean loss per label by task as `loss/...`, and in some records
        the drift, as the fields of `Drift`.
    """
    run, steps = comparison.run, comparison.run.stage.steps
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    set_up_process(ONLY_RANK, device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    zero = replace(run.zero, zero_stage=2)  # one process has nothing to partition
    objective = make_objective(experts, run, zero)
    language_expert = load_language_expert(run.initial_model, getattr(torch, zero.dtype)).to(device).eval()
    language_expert.set_attn_implementation(run.stage.attention)
    engine = make_engine(objective.to(device), run.stage, zero)
    loader = ThreadLoader(plan_inputs(run, objective.mars.config.vocabulary).plan(), rank=0, world_size=1)
    marks = {round(part * steps / max(1, comparison.measurements - 1)) for part in range(comparison.measurements)}
    marks |= {0, steps}

    def drift() -> dict[str, float]:
        return asdict(
            text_drift(text_logits(objective), _logits_on(device, language_expert), comparison.texts, run.end_id)
        )

    records: list[dict[str, Any]] = [{"experts": experts, "step": 0} | drift()]
    report(records[0])
    guard = StepGuard(spike_factor=0.0, roll_back_after=0, end_after=1)
    for number, step in enumerate(prefetch(loader.step, 0, steps)):
        set_learning_rate(engine, learning_rate(run.stage, number))
        result = train_step(engine, step, run.stage, guard, device)
        if result.problem:
            raise NonFiniteError(f"{experts}: step {number + 1} cannot be learned from: {result.problem}")
        record: dict[str, Any] = {"experts": experts, "step": number + 1}
        for task in Task:
            if labels := int(step.label_counts[task.value]):
                record[f"loss/{task.name.lower()}"] = result.task_losses[task.value].item() / labels
        if number + 1 in marks:
            record |= drift()
        records.append(record)
        report(record)
    return records


def make_objective(experts: str, run: StageRun, zero: ZeroConfig) -> Objective:
    """Makes the model to train. Both kinds start from the same weights and compute the same function."""
    assert experts in EXPERTS, experts
    model = load_initial_model(
        run.initial_model,
        run.codebook_size,
        getattr(torch, zero.dtype),
        # A shared output projection would be frozen in the shared expert, and text would get the visual norms.
        replace(run.model_options, shared_output_projection=False, visual_query_key_norm=False),
    )
    model.set_attn_implementation(run.stage.attention)
    return (Objective if experts == "two" else Dense)(model, normalisation=run.stage.normalisation)


def text_logits(objective: Objective) -> TextLogits:
    """Returns the model's logits on text alone."""
    mars: MarsForCausalLM = objective.mars
    device = next(mars.parameters()).device

    def logits(ids: Tensor) -> Tensor:
        ids = ids.to(device)
        if isinstance(objective, Dense):
            hidden = objective.qwen2(inputs_embeds=mars.model.embed_tokens(ids), use_cache=False).last_hidden_state
        else:
            hidden = mars.model(ids, use_cache=False).last_hidden_state
        return torch.nn.functional.linear(hidden, mars.head.text_weight).cpu()

    return logits


def _logits_on(device: torch.device, model: Any) -> TextLogits:
    return lambda ids: model(ids.to(device), use_cache=False).logits.cpu()
