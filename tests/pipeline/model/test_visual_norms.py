"""Norms of the visual expert's queries and keys, as a setting of the recipe on a Qwen2."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from jobs.common.recipes import load_recipe
from pipeline.config.model import ModelOptions
from pipeline.config.vocabulary import Role
from pipeline.generation.pictures import generate_codes
from pipeline.generation.sampling import Sampling
from pipeline.launch.stage_inputs import resume_sha256
from pipeline.model.loading import base_sha256, load_initial_model
from pipeline.model.mars import MarsForCausalLM, is_trained
from pipeline.training.objective import Objective
from pipeline.weights.language_expert_formats import open_language_expert
from pipeline.weights.starting_model import StartOptions, make_starting_model
from tests.support.batches import some_batches
from tests.support.reference import hidden_by_selection
from tests.support.small_models import CODEBOOK, TEXT_VOCAB, builder_of
from tests.support.tokens import FINGERPRINT

OPTIONS = ModelOptions(visual_query_key_norm=True, picture_position_std=0.05)
NORMS = ("visual_expert.q_norm.weight", "visual_expert.k_norm.weight")


@pytest.fixture
def base() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    config = Qwen2Config(vocab_size=TEXT_VOCAB, num_key_value_heads=2, max_position_embeddings=256, **sizes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture
def mars(base: Qwen2ForCausalLM) -> MarsForCausalLM:
    """A model whose norms differ from 1 and from each other, as after training."""
    model = MarsForCausalLM.from_language_expert(base, CODEBOOK, OPTIONS)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if is_trained(name):
            parameter.data += (0.3 if name.endswith(NORMS) else 0.05) * torch.randn_like(parameter)
    model.eval()
    return model


def some_ids(most: int) -> torch.Tensor:
    return torch.randint(most, (3, 17), generator=torch.Generator().manual_seed(2))


def test_off_nothing_is_added_and_older_runs_go_on(base: Qwen2ForCausalLM, tmp_path: Path) -> None:
    assert not load_recipe("mars_7b").visual_query_key_norm, "the paper does not speak of it"
    model = MarsForCausalLM.from_language_expert(base, CODEBOOK)
    assert not any("_norm" in name for name in model.state_dict() if "expert" in name)
    model.config.save_pretrained(tmp_path)
    assert "visual_query_key_norm" not in json.loads((tmp_path / "config.json").read_text())
    recipe = load_recipe("mars_7b")
    on = replace(recipe, visual_query_key_norm=True)
    assert resume_sha256(recipe, recipe.stages[0], FINGERPRINT) != resume_sha256(on, on.stages[0], FINGERPRINT)


@torch.no_grad()
def test_norms_start_at_1_are_trained_and_leave_the_text_alone(base: Qwen2ForCausalLM, mars: MarsForCausalLM) -> None:
    new = MarsForCausalLM.from_language_expert(base, CODEBOOK, OPTIONS)
    norms = {name: each for name, each in new.named_parameters() if name.endswith(NORMS)}
    assert len(norms) == 2 * 3 and all(each.eq(1).all() and each.requires_grad for each in norms.values())
    assert not any("text_expert" in name and "_norm" in name for name in new.state_dict())
    ids = some_ids(TEXT_VOCAB)
    assert torch.equal(mars(ids).logits[..., :TEXT_VOCAB], base(ids).logits)
    assert base_sha256(mars) == base_sha256(MarsForCausalLM.from_language_expert(base, CODEBOOK))


@torch.no_grad()
def test_a_starting_model_made_shard_by_shard_is_the_one_made_in_memory(base: Qwen2ForCausalLM, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path / "expert", max_shard_size="40KB")
    options = StartOptions(CODEBOOK, OPTIONS, "float32")
    make_starting_model(open_language_expert(tmp_path / "expert"), "named", options, tmp_path / "start", print)
    made = load_initial_model(tmp_path / "start", CODEBOOK, torch.float32, OPTIONS)
    expected = load_initial_model(tmp_path / "expert", CODEBOOK, torch.float32, OPTIONS)
    parameters = dict(expected.named_parameters())
    assert parameters.keys() == dict(made.named_parameters()).keys()
    for name, own in made.named_parameters():
        assert torch.equal(own, parameters[name]), name


@torch.no_grad()
def test_an_export_loads_as_it_was(mars: MarsForCausalLM, tmp_path: Path) -> None:
    mars.save_pretrained(tmp_path)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert loaded.config.options == OPTIONS
    ids = some_ids(mars.config.vocab_size)
    assert torch.equal(loaded.eval()(ids).logits, mars(ids).logits)


def test_packed_passes_equal_both_experts_and_selection(mars: MarsForCausalLM) -> None:
    ids = some_ids(mars.config.vocab_size)
    torch.testing.assert_close(mars.model(ids).last_hidden_state, hidden_by_selection(mars, ids))
    together = Objective(mars)(some_batches(builder_of(mars))).loss
    apart = sum(Objective(mars)([batch]).loss for batch in some_batches(builder_of(mars)))
    torch.testing.assert_close(together, apart)


def test_static_caches_draw_what_whole_passes_choose(mars: MarsForCausalLM) -> None:
    prompts, sampling = [[11, 12, 13, 14], [15], [16, 17]], Sampling(temperature=0)
    for prompt, codes in zip(prompts, generate_codes(mars, prompts, 9, sampling), strict=True):
        ids = [*prompt, mars.config.vocabulary.opener(Role.BASE)]
        for code in codes:
            logits = mars(torch.tensor([ids])).logits[0, -1, TEXT_VOCAB : TEXT_VOCAB + CODEBOOK].detach()
            assert logits[code].item() == pytest.approx(logits.max().item(), abs=1e-5)
            ids.append(TEXT_VOCAB + int(code))


def test_training_reaches_the_norms(mars: MarsForCausalLM) -> None:
    mars.freeze_language_expert().train()
    Objective(mars)(some_batches(builder_of(mars))).loss.backward()
    norms = [parameter for name, parameter in mars.named_parameters() if name.endswith(NORMS)]
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in norms)
