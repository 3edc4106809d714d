"""Layers that are recomputed, compiled or kept whole train as plain ones do, and never wait for the device."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from transformers import Qwen2ForCausalLM

from pipeline.config.vocabulary import NORMALISATIONS
from pipeline.data.sequences import SequenceBuilder
from pipeline.model.layers import MarsDecoderLayer
from pipeline.model.mars import MarsForCausalLM, is_trained
from pipeline.training.objective import Objective
from tests.support.batches import some_batches
from tests.support.small_models import CODEBOOK, builder_of, small_config


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2])
def test_activation_checkpointing_changes_no_gradient_and_leaves_the_text_prefix_alone(
    mars: MarsForCausalLM, builder: SequenceBuilder, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mars.freeze_language_expert().train()
    trained, batches, objective = (
        [p for p in mars.parameters() if p.requires_grad],
        some_batches(builder),
        Objective(mars),
    )
    plain = torch.autograd.grad(objective(batches).loss, trained)
    runs: Counter[str] = Counter()
    for name in ("run_joint", "run_text", "run_visual"):
        monkeypatch.setattr(MarsDecoderLayer, name, counting(getattr(MarsDecoderLayer, name), runs))
    mars.gradient_checkpointing_enable()
    mars.model.checkpoint_every = every
    recomputed = torch.autograd.grad(objective(batches).loss, trained)
    for own, other in zip(recomputed, plain, strict=True):
        assert torch.equal(own, other)
    layers = mars.config.num_hidden_layers
    again = -(-layers // every)
    # Two of the three batches have a text prefix.
    assert runs == {"run_text": 2 * layers, "run_visual": 2 * (layers + again), "run_joint": layers + again}


def counting(function: Callable, runs: Counter[str]) -> Callable:
    def counted(*args: Any, **kwargs: Any) -> Any:
        runs[function.__name__] += 1
        return function(*args, **kwargs)

    return counted


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_compiled_layers_give_the_same_loss_and_gradients(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Both keep to the same graphs; inductor also writes and compiles code for them, which takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch.compiler.reset()
    mars, builder = small_model()
    trained = [p for p in mars.parameters() if p.requires_grad]
    batches, objective = some_batches(builder), Objective(mars)
    plain = torch.autograd.grad(objective(batches).loss, trained)
    mars.model.compile_layers()
    torch._dynamo.utils.counters.clear()
    for own, other in zip(torch.autograd.grad(objective(batches).loss, trained), plain, strict=True):
        torch.testing.assert_close(own, other, atol=2e-6, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3, "nothing was compiled"


@pytest.mark.slow
def test_language_expert_kept_whole_as_buffers_trains_the_same(
    base: Qwen2ForCausalLM, builder: SequenceBuilder
) -> None:
    first, second = (MarsForCausalLM.from_language_expert(base, CODEBOOK) for _ in range(2))
    second.keep_frozen_whole()
    assert all(is_trained(name) for name, _ in second.named_parameters())
    assert second.state_dict().keys() == {name for name, _ in first.named_parameters() if is_trained(name)}
    batches = some_batches(builder)
    losses = [Objective(model)(batches).loss for model in (first, second)]
    assert torch.equal(*losses)
    own, other = (
        torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
        for loss, model in zip(losses, (first, second), strict=True)
    )
    assert all(torch.equal(*pair) for pair in zip(own, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("recompute", [False, True])
def test_forward_and_backward_of_training_never_wait_for_the_device(
    attention: str, normalisation: str, recompute: bool
) -> None:
    """On a GPU each of these operations makes the host wait for all that was queued."""
    mars, builder = small_model()
    mars.train()
    mars.set_attn_implementation(attention)
    if recompute:
        mars.gradient_checkpointing_enable()
    objective, batches = Objective(mars, normalisation), some_batches(builder)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        objective(batches).loss.backward()
    ran = {event.key for event in profile.key_averages()}
    assert {"aten::mm", "aten::embedding", "aten::index_select"} <= ran
    waiting = ("item", "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "equal", "_unique2")
    assert not ran & {f"aten::{name}" for name in waiting}


def small_model() -> tuple[MarsForCausalLM, SequenceBuilder]:
    mars = MarsForCausalLM(small_config()).freeze_language_expert()
    return mars, builder_of(mars)
