"""A Qwen3 as language expert: heads of their own size, normalised queries and keys, and no biases."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from pipeline.architecture.mars_config import MarsConfig
from pipeline.benchmarks.baselines import Dense
from pipeline.config.model import ModelOptions
from pipeline.config.vocabulary import Role
from pipeline.errors import InputError
from pipeline.generation.pictures import generate_codes
from pipeline.generation.sampling import Sampling
from pipeline.model.loading import base_sha256, load_initial_model, load_language_expert
from pipeline.model.mars import MarsForCausalLM, is_trained
from pipeline.training.objective import Objective
from pipeline.weights.language_expert_formats import language_expert_config, open_language_expert
from pipeline.weights.starting_model import StartOptions, make_starting_model
from tests.support.batches import some_batches
from tests.support.reference import hidden_by_selection
from tests.support.small_models import CODEBOOK, TEXT_VOCAB, builder_of


@pytest.fixture(params=[(False, 2), (True, 4)], ids=["untied, grouped heads", "tied, plain heads"])
def qwen3(request: pytest.FixtureRequest) -> Qwen3ForCausalLM:
    """With heads wider than hidden size over heads, as in all small Qwen3s."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=TEXT_VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=request.param[1],
        head_dim=16,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=request.param[0],
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if "_norm" in name or "layernorm" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture
def mars(qwen3: Qwen3ForCausalLM) -> MarsForCausalLM:
    """A model whose visual side differs from the text side, as after training."""
    model = MarsForCausalLM.from_language_expert(qwen3, CODEBOOK, ModelOptions(picture_position_std=0.05))
    for name, parameter in model.named_parameters():
        if is_trained(name):
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.eval()
    return model


def some_ids(most: int) -> torch.Tensor:
    return torch.randint(most, (3, 17), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_text_logits_equal_transformers_bit_for_bit(
    qwen3: Qwen3ForCausalLM, mars: MarsForCausalLM, attention: str
) -> None:
    for model in (qwen3, mars):
        model.set_attn_implementation(attention)
    ids = some_ids(TEXT_VOCAB)
    padding = torch.ones_like(ids)
    padding[1, :5] = 0
    for mask in (None, padding):
        expected = qwen3(ids, attention_mask=mask).logits
        assert torch.equal(mars(ids, attention_mask=mask).logits[..., :TEXT_VOCAB], expected)
    step, own = (model(ids, use_cache=True).past_key_values for model in (qwen3, mars))
    after = some_ids(TEXT_VOCAB)[:, :1]
    expected = qwen3(after, past_key_values=step).logits
    assert torch.equal(mars(after, past_key_values=own).logits[..., :TEXT_VOCAB], expected)


@torch.no_grad()
def test_a_folder_of_it_loads_and_its_visual_expert_starts_as_a_copy(qwen3: Qwen3ForCausalLM, tmp_path: Path) -> None:
    qwen3.save_pretrained(tmp_path / "expert", max_shard_size="40KB")
    config = language_expert_config(tmp_path / "expert")
    assert isinstance(config, Qwen3Config) and config.head_dim == 16
    ids = some_ids(TEXT_VOCAB)
    expert = load_language_expert(tmp_path / "expert", torch.float32).eval()
    assert isinstance(expert, Qwen3ForCausalLM) and torch.equal(expert(ids).logits, qwen3(ids).logits)
    mars = load_initial_model(tmp_path / "expert", CODEBOOK, torch.float32)
    assert torch.equal(mars.eval()(ids).logits[..., :TEXT_VOCAB], qwen3(ids).logits)
    own = dict(mars.named_parameters())
    twins = [name for name in own if ".text_expert." in name]
    assert any(name.endswith("text_expert.q_norm.weight") for name in twins)
    for name in twins:
        assert torch.equal(own[name], own[name.replace("text_expert", "visual_expert")]), name
        assert not own[name].requires_grad and own[name.replace("text_expert", "visual_expert")].requires_grad
    kept, given = mars.config.language_expert().to_dict(), qwen3.config.to_dict()
    differ = {key for key in kept | given if kept.get(key) != given.get(key)}
    assert differ <= {"_name_or_path", "architectures"}


@torch.no_grad()
def test_a_starting_model_of_it_made_shard_by_shard_is_the_one_made_in_memory(
    qwen3: Qwen3ForCausalLM, tmp_path: Path
) -> None:
    qwen3.save_pretrained(tmp_path / "expert", max_shard_size="40KB")
    options = StartOptions(CODEBOOK, ModelOptions(picture_position_std=0.03), "float32")
    record = make_starting_model(open_language_expert(tmp_path / "expert"), "named", options, tmp_path / "start", print)
    made = MarsForCausalLM.from_pretrained(tmp_path / "start", dtype=torch.float32)
    expected = load_initial_model(tmp_path / "expert", CODEBOOK, torch.float32, options.model)
    for (name, own), (other_name, other) in zip(
        sorted(made.named_parameters()), sorted(expected.named_parameters()), strict=True
    ):
        assert name == other_name and torch.equal(own, other), name
    assert record.base_sha256 == base_sha256(expected)
    again = load_language_expert(tmp_path / "start", torch.float32).eval()
    assert torch.equal(again(some_ids(TEXT_VOCAB)).logits, qwen3(some_ids(TEXT_VOCAB)).logits)


def test_an_export_of_it_loads_as_it_was(mars: MarsForCausalLM, tmp_path: Path) -> None:
    mars.save_pretrained(tmp_path)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = some_ids(mars.config.vocab_size)
    assert torch.equal(loaded.eval()(ids).logits, mars(ids).logits)
    config = MarsConfig.from_pretrained(tmp_path)
    assert (config.head_dim, config.query_key_norm, config.qkv_bias) == (16, True, False)


def test_packed_passes_equal_both_experts_and_selection(mars: MarsForCausalLM) -> None:
    ids = some_ids(mars.config.vocab_size)
    assert (ids >= TEXT_VOCAB).any() and (ids < TEXT_VOCAB).any()
    torch.testing.assert_close(mars.model(ids).last_hidden_state, hidden_by_selection(mars, ids))
    batches, builder = some_batches(builder_of(mars)), builder_of(mars)
    together = Objective(mars)(batches).loss
    apart = sum(Objective(mars)([batch]).loss for batch in some_batches(builder))
    torch.testing.assert_close(together, apart)


def test_static_caches_draw_what_whole_passes_choose(mars: MarsForCausalLM) -> None:
    prompts, sampling = [[11, 12, 13, 14], [15], [16, 17]], Sampling(temperature=0)
    together = generate_codes(mars, prompts, 9, sampling)
    for prompt, codes in zip(prompts, together, strict=True):
        ids = [*prompt, mars.config.vocabulary.opener(Role.BASE)]
        for code in codes:
            logits = mars(torch.tensor([ids])).logits[0, -1, TEXT_VOCAB : TEXT_VOCAB + CODEBOOK].detach()
            assert logits[code].item() == pytest.approx(logits.max().item(), abs=1e-5)
            ids.append(TEXT_VOCAB + int(code))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_it_trains_its_visual_norms_and_leaves_its_text_alone(
    qwen3: Qwen3ForCausalLM, mars: MarsForCausalLM, recompute: bool
) -> None:
    mars.freeze_language_expert().train()
    if recompute:
        mars.gradient_checkpointing_enable()
    start = {name: parameter.detach().clone() for name, parameter in mars.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in mars.parameters() if p.requires_grad], lr=1e-3)
    batches, losses = some_batches(builder_of(mars)), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = Objective(mars)(batches).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in mars.named_parameters():
        assert torch.equal(parameter, start[name]) != is_trained(name), name
    mars.eval()
    ids = some_ids(TEXT_VOCAB)
    assert torch.equal(mars(ids).logits[..., :TEXT_VOCAB], qwen3(ids).logits)


def test_the_dense_baseline_of_it_computes_the_same_while_its_experts_are_copies(qwen3: Qwen3ForCausalLM) -> None:
    mars = MarsForCausalLM.from_language_expert(qwen3, CODEBOOK)
    batches = some_batches(builder_of(mars))
    torch.testing.assert_close(Dense(mars)(batches).loss, Objective(mars)(batches).loss)


def test_what_a_qwen3_may_have_and_mars_has_not_is_refused(tmp_path: Path) -> None:
    for changes, message in (
        ({"attention_bias": True}, "has attention_bias; only a Qwen3 without biases"),
        ({"use_sliding_window": True, "max_window_layers": 0}, "has use_sliding_window"),
    ):
        Qwen3Config(**changes).save_pretrained(tmp_path)
        with pytest.raises(InputError, match=message):
            language_expert_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_moe"}')
    with pytest.raises(InputError, match="is a 'qwen3_moe' model; MARS is built on qwen2, qwen3, qwen"):
        language_expert_config(tmp_path)
