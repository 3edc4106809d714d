"""The model is exactly the base on text, and one model in all its forms."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import pipeline.model  # noqa: F401
from pipeline.collate import collate
from pipeline.model import MarsForCausalLM, is_trained
from pipeline.objective import Objective
from pipeline.sequences import Kind
from pipeline.weights import base_sha256
from tests.conftest import CODEBOOK, TEXT_VOCAB


def random_ids(vocab: int, shape=(3, 17)) -> torch.Tensor:
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(2))


def test_text_logits_equal_the_bases_bit_for_bit(base, mars):
    ids = random_ids(TEXT_VOCAB)
    padding = torch.ones_like(ids)
    padding[1, :5] = 0
    for mask in (None, padding):
        expected = base(ids, attention_mask=mask).logits
        assert torch.equal(mars(ids, attention_mask=mask).logits[..., :TEXT_VOCAB], expected)


def test_training_moves_visual_weights_and_leaves_text_and_its_logits_alone(base, mars, builder):
    ids = random_ids(TEXT_VOCAB)
    mars.freeze_language_expert()
    before, hash_before = mars(ids).logits[..., :TEXT_VOCAB], base_sha256(mars)
    moved = {name: p.detach().clone() for name, p in mars.named_parameters() if is_trained(name)}
    optimizer = torch.optim.AdamW([p for p in mars.parameters() if p.requires_grad], lr=1e-2)
    batches = some_batches(builder)
    for _ in range(5):
        optimizer.zero_grad()
        Objective(mars)(batches).loss.backward()
        optimizer.step()
    assert base_sha256(mars) == hash_before
    assert torch.equal(mars(ids).logits[..., :TEXT_VOCAB], before)
    assert all(not torch.equal(p, moved[name]) for name, p in mars.named_parameters() if name in moved and p.dim() == 2)


def test_a_visual_expert_that_is_a_copy_makes_the_dense_model(base):
    """Visual ids with text embeddings through an untrained visual expert are just more text."""
    model = MarsForCausalLM.from_language_expert(base, CODEBOOK).eval()
    ids = random_ids(CODEBOOK)
    model.model.embed_visual.weight.data[:CODEBOOK] = base.model.embed_tokens.weight[:CODEBOOK]
    mixed = torch.where(torch.arange(17) % 3 == 0, ids + TEXT_VOCAB, ids)
    torch.testing.assert_close(model(mixed).logits[..., :TEXT_VOCAB], base(ids).logits)


def test_visual_embedding_and_head_start_at_the_means(base):
    model = MarsForCausalLM.from_language_expert(base, CODEBOOK)
    for own, source in (
        (model.model.embed_visual.weight, base.model.embed_tokens.weight),
        (model.head.visual_weight, base.lm_head.weight),
    ):
        torch.testing.assert_close(own, source.mean(0).expand_as(own))


def test_embedding_noise_parts_the_codes_and_is_the_same_on_every_rank(base):
    first, second = (MarsForCausalLM.from_language_expert(base, CODEBOOK, embedding_noise_std=0.05) for _ in range(2))
    table = first.model.embed_visual.weight
    assert torch.equal(table, second.model.embed_visual.weight)
    assert (table - table.mean(0)).std().item() == pytest.approx(0.05, rel=0.2)
    assert (first.head.visual_weight == first.head.visual_weight[0]).all()


def test_cached_generation_equals_uncached(mars):
    ids = random_ids(TEXT_VOCAB + CODEBOOK)
    whole = mars(ids).logits
    first = mars(ids[:, :9], use_cache=True)
    second = mars(ids[:, 9:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole)


def test_a_saved_model_loads_with_the_auto_class_and_generates_the_same(mars, tmp_path):
    mars.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = random_ids(TEXT_VOCAB)
    assert torch.equal(loaded(ids).logits, mars(ids).logits)
    settings = dict(max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(loaded.generate(ids, **settings), mars.generate(ids, **settings))


def test_casting_the_model_keeps_rotary_frequencies_exact(mars):
    """DeepSpeed casts the whole module; a model trained with rounded angles would not match its export."""
    exact = mars.model.rotary_emb.inv_freq.clone()
    mars.bfloat16()
    assert mars.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(mars.model.rotary_emb.inv_freq, exact)


def test_the_size_at_qwen_7b_is_the_papers():
    from pipeline.configuration import MarsConfig

    config = MarsConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32
    )
    with torch.device("meta"):
        model = MarsForCausalLM(config)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for name, p in model.named_parameters() if is_trained(name))
    assert config.vocab_size == 160_136
    assert 6.4e9 <= trainable <= 7.3e9
    assert 13.6e9 <= total <= 14.6e9


def some_batches(builder):
    import numpy as np

    codes = np.arange(9) % CODEBOOK
    images = [[builder.text_to_image([11, 12, 13], codes), builder.text_to_image([], codes + 3)]]
    captions = [[builder.captioning(codes, [21, 22], "en"), builder.captioning(codes + 5, [23], "zh")]]
    weights = [0.1, 0.2, 0.05]
    vocabulary = builder.vocabulary
    return [
        collate(Kind.TEXT_TO_IMAGE, images, vocabulary, weights, 8),
        collate(Kind.CAPTIONING, captions, vocabulary, weights, 8),
    ]
