"""The usual uses of a transformers model work with an export, or are refused by name."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import dispatch_model
from transformers import AutoModel, AutoModelForCausalLM, Qwen2ForCausalLM, Trainer, TrainingArguments

from pipeline.model.backbone import MarsModel
from pipeline.model.mars import MarsForCausalLM, is_trained
from tests.support.models import random_model
from tests.support.small_models import TEXT_VOCAB


@pytest.fixture
def mars() -> MarsForCausalLM:
    return random_model()


def some_ids(most: int, shape: tuple[int, int] = (3, 9)) -> torch.Tensor:
    return torch.randint(most, shape, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_hidden_states_are_the_bases_on_text_and_end_in_the_normed_one(base: Qwen2ForCausalLM) -> None:
    mars, ids = MarsForCausalLM.from_language_expert(base, 32).eval(), some_ids(TEXT_VOCAB)
    own, other = (model(ids, output_hidden_states=True) for model in (mars, base))
    assert len(own.hidden_states) == mars.config.num_hidden_layers + 1 == len(other.hidden_states)
    for state, expected in zip(own.hidden_states, other.hidden_states, strict=True):
        assert torch.equal(state, expected)
    assert mars(ids).hidden_states is None
    mixed = mars(some_ids(mars.config.vocab_size), output_hidden_states=True)
    assert torch.equal(mars.head(mixed.hidden_states[-1]), mixed.logits)
    mars.config.output_hidden_states = True
    assert len(mars(ids, return_dict=False)) >= 2


@torch.no_grad()
def test_attentions_are_the_bases_on_text_and_refused_where_there_are_none(base: Qwen2ForCausalLM) -> None:
    mars, ids = MarsForCausalLM.from_language_expert(base, 32).eval(), some_ids(TEXT_VOCAB)
    for model in (mars, base):
        model.set_attn_implementation("eager")
    own, other = (model(ids, output_attentions=True).attentions for model in (mars, base))
    assert len(own) == mars.config.num_hidden_layers
    assert all(torch.equal(*pair) for pair in zip(own, other, strict=True))
    mixed = mars(some_ids(mars.config.vocab_size), output_attentions=True).attentions
    torch.testing.assert_close(mixed[0].sum(-1), torch.ones(3, 4, 9))
    mars.set_attn_implementation("sdpa")
    with pytest.raises(
        ValueError, match=r"output_attentions needs the probabilities.*set_attn_implementation\('eager'\)"
    ):
        mars(ids, output_attentions=True)


@torch.no_grad()
def test_logits_of_some_positions_are_those_of_all(mars: MarsForCausalLM) -> None:
    ids = some_ids(mars.config.vocab_size)
    whole = mars(ids).logits
    torch.testing.assert_close(mars(ids, logits_to_keep=2).logits, whole[:, -2:])
    index = torch.tensor([0, 5, 8])
    torch.testing.assert_close(mars(ids, logits_to_keep=index).logits, whole[:, index])
    each = torch.tensor([[0, 1], [2, 3], [8, 8]])
    torch.testing.assert_close(mars(ids, logits_to_keep=each).logits, whole[torch.arange(3)[:, None], each])
    with pytest.raises(ValueError, match=r"logits_to_keep is torch.bool of shape \(9,\)"):
        mars(ids, logits_to_keep=torch.ones(9, dtype=torch.bool))
    with pytest.raises(TypeError, match="logits_to_keep is a slice; give an int, or int64"):
        mars(ids, logits_to_keep=slice(-2, None))


def test_a_loss_over_several_micro_batches_is_divided_by_all_their_labels(mars: MarsForCausalLM) -> None:
    ids = some_ids(mars.config.vocab_size)
    output = mars(ids, labels=ids, num_items_in_batch=torch.tensor(100))
    summed = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(output.loss, summed / 100)


def test_embeddings_in_place_of_ids_and_a_larger_vocabulary_are_refused(mars: MarsForCausalLM) -> None:
    with pytest.raises(TypeError, match="give input_ids, and no inputs_embeds"):
        mars(inputs_embeds=torch.zeros(1, 3, 32))
    with pytest.raises(ValueError, match="You passed `inputs_embeds` to"):
        mars.generate(inputs_embeds=torch.zeros(1, 3, 32), max_new_tokens=1, pad_token_id=0)
    with pytest.raises(NotImplementedError, match="cannot be resized"):
        mars.resize_token_embeddings(9)
    with pytest.raises(NotImplementedError, match="MARS's head is two matrices"):
        mars.set_output_embeddings(torch.nn.Linear(2, 3))


@torch.no_grad()
def test_the_output_embeddings_are_the_head(mars: MarsForCausalLM) -> None:
    head, hidden = mars.get_output_embeddings(), torch.randn(2, 32)
    assert head.weight.shape == (mars.config.vocab_size, mars.config.hidden_size)
    assert isinstance(head.weight, torch.Tensor)
    torch.testing.assert_close(F.linear(hidden, head.weight), head(hidden))
    assert mars.get_input_embeddings().weight.shape == (TEXT_VOCAB, 32)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_static_cache_generates_the_same(mars: MarsForCausalLM, attention: str) -> None:
    mars.set_attn_implementation(attention)
    ids = some_ids(mars.config.vocab_size)
    settings = dict(max_new_tokens=6, do_sample=False, pad_token_id=0)
    usual = mars.generate(ids, **settings)
    assert torch.equal(mars.generate(ids, cache_implementation="static", **settings), usual)
    more = mars.generate(ids, return_dict_in_generate=True, output_hidden_states=True, output_logits=True, **settings)
    assert torch.equal(more.sequences, usual) and len(more.hidden_states) == 6


@torch.no_grad()
def test_auto_model_loads_the_backbone(mars: MarsForCausalLM, tmp_path: Path) -> None:
    mars.save_pretrained(tmp_path)
    backbone, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(backbone, MarsModel) and not report["missing_keys"]
    ids = some_ids(mars.config.vocab_size)
    assert torch.equal(backbone.eval()(ids).last_hidden_state, mars.model(ids).last_hidden_state)
    backbone.save_pretrained(tmp_path / "backbone")
    again = AutoModel.from_pretrained(tmp_path / "backbone").eval()
    assert torch.equal(again(ids).last_hidden_state, mars.model(ids).last_hidden_state)


@torch.no_grad()
def test_accelerate_places_the_model_on_devices_and_offloads_its_layers(mars: MarsForCausalLM, tmp_path: Path) -> None:
    mars.save_pretrained(tmp_path)
    ids = some_ids(mars.config.vocab_size)
    settings = dict(max_new_tokens=3, do_sample=False, pad_token_id=0)
    expected, drawn = mars(ids).logits, mars.generate(ids, **settings)
    placed = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="auto").eval()
    assert torch.equal(placed(ids).logits, expected)
    devices = {"model.embed_tokens": "cpu", "model.embed_visual": "cpu", "model.layers.0": "disk"}
    devices |= {"model.layers.1": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "head": "disk"}
    offloaded = dispatch_model(
        AutoModelForCausalLM.from_pretrained(tmp_path).eval(), devices, main_device="cpu", offload_dir=tmp_path / "off"
    )
    assert torch.equal(offloaded(ids).logits, expected)
    assert torch.equal(offloaded.generate(ids, **settings), drawn)


@pytest.mark.slow
def test_a_trainer_takes_steps_and_saves(mars: MarsForCausalLM, tmp_path: Path) -> None:
    mars.freeze_language_expert()
    start = {name: parameter.detach().clone() for name, parameter in mars.named_parameters()}
    rows = [{"input_ids": row, "labels": row} for row in some_ids(mars.config.vocab_size, (8, 9))]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=2,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(mars, arguments, train_dataset=rows)
    assert trainer.model_accepts_loss_kwargs
    assert trainer.train().training_loss > 0
    for name, parameter in mars.named_parameters():
        assert is_trained(name) or torch.equal(parameter, start[name]), name
    assert not torch.equal(mars.head.visual_weight, start["head.visual_weight"])
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    ids = some_ids(mars.config.vocab_size)
    assert torch.equal(loaded(ids).logits, mars.eval()(ids).logits)
