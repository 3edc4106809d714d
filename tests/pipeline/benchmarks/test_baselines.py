"""All variants of the benchmark do the same work: otherwise its ratios would mean nothing."""

import pytest
import torch
from transformers import Qwen2ForCausalLM

from pipeline.architecture.geometries import GEOMETRIES, with_layers
from pipeline.benchmarks.baselines import BothExperts, Dense, PrefixWithGradient
from pipeline.benchmarks.step import StepBenchmark, measure_step
from pipeline.benchmarks.step_settings import ACTIVATION_BYTES, FROZEN_BYTES, TRAINED_BYTES, layers_that_fit
from pipeline.config.model import ModelOptions
from pipeline.data.sequences import SequenceBuilder
from pipeline.model.mars import MarsForCausalLM
from pipeline.planning.flops import count_parameters
from pipeline.training.objective import Objective
from tests.support.batches import some_batches
from tests.support.small_models import CODEBOOK, small_config


@pytest.mark.slow
@pytest.mark.parametrize("baseline", [BothExperts, PrefixWithGradient])
def test_selection_and_a_prefix_with_gradient_give_the_objectives_losses_and_gradients(
    mars: MarsForCausalLM, builder: SequenceBuilder, baseline: type
) -> None:
    trained = [p for p in mars.freeze_language_expert().parameters() if p.requires_grad]
    batches = some_batches(builder)
    losses = [each(mars)(batches) for each in (Objective, baseline)]
    torch.testing.assert_close(losses[0].task_losses, losses[1].task_losses)
    for own, other in zip(*(torch.autograd.grad(loss.loss, trained) for loss in losses), strict=True):
        torch.testing.assert_close(own, other, atol=2e-6, rtol=1e-4)


def test_the_dense_baseline_is_the_model_whose_visual_expert_is_a_copy(
    base: Qwen2ForCausalLM, builder: SequenceBuilder
) -> None:
    mars = MarsForCausalLM.from_language_expert(base, CODEBOOK, ModelOptions(embedding_noise_std=0.1))
    dense = Dense(mars)
    batches = some_batches(builder)
    torch.testing.assert_close(dense(batches).task_losses, Objective(mars)(batches).task_losses)
    dense(batches).loss.backward()
    learned = {name for name, parameter in mars.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, parameter in mars.named_parameters() if parameter.requires_grad}


def test_a_measurement_has_what_it_promises() -> None:
    lines: list[str] = []
    figures = measure_step(
        StepBenchmark(small_config(), 2, 2, 1, 7, 16, rounds=2, warmup=1), torch.device("cpu"), lines.append
    )
    assert len(lines) == 2
    assert figures["mfu"] is None and figures["padding_fraction"] == 0
    assert figures["samples_per_s"] == pytest.approx(4 / figures["step_s"])
    assert figures["tokens_per_s"] == pytest.approx(4 * (7 + 16) / figures["step_s"])
    for name in ("routed_over_dense", "naive_over_routed", "prefix_speedup", "joint_over_state_normalisation"):
        assert 0.05 < figures[name] < 20


@pytest.mark.parametrize("free_gb", [24, 48, 80, 141, 400])
def test_on_a_gpu_as_many_layers_are_measured_as_its_memory_holds(
    monkeypatch: pytest.MonkeyPatch, free_gb: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_gb * 10**9, 0))
    config, tokens = GEOMETRIES["qwen_7b"], 12 * 333

    def needed(layers: int) -> float:
        counts = count_parameters(with_layers(config, layers))
        states = TRAINED_BYTES * counts.trainable + FROZEN_BYTES * (counts.total - counts.trainable)
        return states + 2 * ACTIVATION_BYTES * tokens * layers

    layers = layers_that_fit(config, tokens)
    assert needed(layers) <= 0.9 * free_gb * 10**9
    assert layers == config.num_hidden_layers or needed(layers + 1) > 0.89 * free_gb * 10**9
    assert (layers == config.num_hidden_layers) is (free_gb > 100)
