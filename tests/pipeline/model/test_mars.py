"""The model is exactly the base on text, and one model in all its forms."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessor, Qwen2ForCausalLM

from pipeline.config.model import ModelOptions
from pipeline.config.vocabulary import Role
from pipeline.data.sequences import SequenceBuilder
from pipeline.generation.pictures import generate_codes
from pipeline.generation.sampling import Sampling
from pipeline.model.backbone import LAST_OPENER
from pipeline.model.mars import MarsForCausalLM, is_trained
from pipeline.model.picture_positions import picture_positions, position_encoding
from pipeline.training.objective import Objective
from tests.support.batches import some_batches
from tests.support.reference import hidden_by_selection
from tests.support.small_models import CODEBOOK, TEXT_VOCAB


def random_ids(vocab: int, shape: tuple[int, ...] = (3, 17)) -> torch.Tensor:
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(2))


def test_text_logits_equal_the_bases_bit_for_bit(base: Qwen2ForCausalLM, mars: MarsForCausalLM) -> None:
    ids = random_ids(TEXT_VOCAB)
    padding = torch.ones_like(ids)
    padding[1, :5] = 0
    for mask in (None, padding):
        expected = base(ids, attention_mask=mask).logits
        assert torch.equal(mars(ids, attention_mask=mask).logits[..., :TEXT_VOCAB], expected)


@pytest.mark.slow
def test_thirty_steps_move_the_visual_weights_and_leave_text_and_its_logits_alone(
    base: Qwen2ForCausalLM, mars: MarsForCausalLM, builder: SequenceBuilder
) -> None:
    ids = random_ids(TEXT_VOCAB)
    mars.freeze_language_expert()
    frozen = {name: sha256(parameter) for name, parameter in mars.named_parameters() if not is_trained(name)}
    start = {name: p.detach().clone() for name, p in mars.named_parameters() if is_trained(name)}
    optimizer = torch.optim.AdamW([p for p in mars.parameters() if p.requires_grad], lr=1e-3)
    batches, objective = some_batches(builder), Objective(mars)
    for _ in range(30):
        optimizer.zero_grad()
        objective(batches).loss.backward()
        optimizer.step()
    assert frozen == {name: sha256(p) for name, p in mars.named_parameters() if not is_trained(name)}
    assert torch.equal(mars(ids).logits[..., :TEXT_VOCAB], base(ids).logits)
    moved = {name: not torch.equal(p, start[name]) for name, p in mars.named_parameters() if name in start}
    assert all(moved[name] for name, p in start.items() if p.dim() == 2), moved


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("shared", [False, True])
def test_a_visual_expert_that_is_a_copy_makes_the_dense_model(base: Qwen2ForCausalLM, shared: bool) -> None:
    """Visual ids with text embeddings through an untrained visual expert are just more text."""
    model = MarsForCausalLM.from_language_expert(base, CODEBOOK, ModelOptions(shared_output_projection=shared)).eval()
    ids = random_ids(CODEBOOK)
    model.model.embed_visual.weight.data[:CODEBOOK] = base.model.embed_tokens.weight[:CODEBOOK]
    mixed = torch.where(torch.arange(17) % 3 == 0, ids + TEXT_VOCAB, ids)
    torch.testing.assert_close(model(mixed).logits[..., :TEXT_VOCAB], base(ids).logits)


def test_routing_by_index_equals_both_experts_and_selection_in_values_and_gradients(mars: MarsForCausalLM) -> None:
    ids = random_ids(mars.config.vocab_size)
    assert (ids >= TEXT_VOCAB).any() and (ids < TEXT_VOCAB).any()
    model, weights = mars.model, torch.randn(3, 17, mars.config.hidden_size)
    parameters = [p for p in model.parameters() if p.requires_grad]
    routed, reference = model(ids).last_hidden_state, hidden_by_selection(mars, ids)
    torch.testing.assert_close(routed, reference)
    gradients = (torch.autograd.grad((hidden * weights).sum(), parameters) for hidden in (routed, reference))
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)


def test_visual_embedding_and_head_start_at_the_means(base: Qwen2ForCausalLM) -> None:
    model = MarsForCausalLM.from_language_expert(base, CODEBOOK)
    for own, source in (
        (model.model.embed_visual.weight, base.model.embed_tokens.weight),
        (model.head.visual_weight, base.lm_head.weight),
    ):
        torch.testing.assert_close(own, source.mean(0).expand_as(own))


def test_embedding_noise_parts_the_codes_and_is_the_same_on_every_rank(base: Qwen2ForCausalLM) -> None:
    first, second = (
        MarsForCausalLM.from_language_expert(base, CODEBOOK, ModelOptions(embedding_noise_std=0.05)) for _ in range(2)
    )
    table = first.model.embed_visual.weight
    assert torch.equal(table, second.model.embed_visual.weight)
    assert (table - table.mean(0)).std().item() == pytest.approx(0.05, rel=0.2)
    assert (first.head.visual_weight == first.head.visual_weight[0]).all()


def ids_with_pictures(mars: MarsForCausalLM, shape: tuple[int, ...] = (3, 17)) -> torch.Tensor:
    """Text, then a picture that begins at another place in each row, and is still open at the end of the first two
    rows."""
    vocabulary, ids = mars.config.vocabulary, random_ids(TEXT_VOCAB, shape)
    codes = random_ids(CODEBOOK, shape) + TEXT_VOCAB
    for row, start in enumerate((2, 6, 1)):
        ids[row, start] = vocabulary.opener(Role.BASE)
        ids[row, start + 1 :] = codes[row, start + 1 :]
    ids[2, -3], ids[2, -2:] = vocabulary.closer(Role.BASE), random_ids(TEXT_VOCAB, (2,))
    return ids


@pytest.mark.parametrize("given", [True, False])
def test_cached_generation_equals_uncached(mars: MarsForCausalLM, given: bool) -> None:
    """Picture positions continue from the cache, with and without positions from the caller."""
    ids = ids_with_pictures(mars)
    whole = mars(ids).logits
    positions = picture_positions(ids, mars.config.vocabulary.opener(Role.BASE))
    logits, cache = [], None
    for part in (slice(0, 4), slice(4, 9), slice(9, 10), slice(10, 17)):
        more = dict(picture_position_ids=positions[:, part]) if given else {}
        output = mars(ids[:, part], past_key_values=cache, use_cache=True, **more)
        logits.append(output.logits)
        cache = output.past_key_values
    torch.testing.assert_close(torch.cat(logits, 1), whole)


def test_a_picture_whose_beginning_is_not_known_is_refused(mars: MarsForCausalLM) -> None:
    ids = ids_with_pictures(mars)
    cache = mars(ids[:, :9], use_cache=True).past_key_values
    delattr(cache, LAST_OPENER)
    with pytest.raises(ValueError, match="continue a picture; give picture_position_ids"):
        mars(ids[:, 9:], past_key_values=cache)
    with pytest.raises(ValueError, match="generate counts picture_position_ids by itself"):
        mars.generate(ids, picture_position_ids=torch.zeros_like(ids), max_new_tokens=2, pad_token_id=0)


def test_a_visual_id_is_told_where_in_its_picture_it_stands(mars: MarsForCausalLM) -> None:
    """From the base picture's opener on, through its high-resolution one; a packed row's next picture begins anew."""
    vocabulary = mars.config.vocabulary
    base, high = vocabulary.opener(Role.BASE), vocabulary.opener(Role.HIGH_1)
    code, closer = vocabulary.code_offset, vocabulary.closer(Role.BASE)
    ids = torch.tensor([[11, base, code, code, closer, high, code, 12, base, code]])
    assert picture_positions(ids, base).tolist() == [[0, 0, 1, 2, 3, 4, 5, 6, 0, 1]]
    visual = ids[ids >= TEXT_VOCAB][None]
    row = mars.model.embed_visual.weight[0]
    told = (mars.model.embed_visual(visual) - row)[0, visual[0] == code].detach()
    torch.testing.assert_close(told[0], told[3])  # the first code of each picture
    apart = torch.cdist(told[:3], told[:3])[~torch.eye(3, dtype=torch.bool)]
    assert (apart > 0.1 * 0.05 * 32**0.5).all()
    everywhere = position_encoding(torch.arange(400), 256, 0.05)
    assert everywhere.square().mean().sqrt().item() == pytest.approx(0.05, rel=1e-3)
    nearest = torch.cdist(everywhere, everywhere).fill_diagonal_(torch.inf)
    assert nearest.min() > 0.1 * 0.05 * 256**0.5, "no two positions look alike"


@pytest.mark.slow
def test_prompts_of_unequal_length_draw_together_what_they_draw_alone_with_and_without_cache(
    mars: MarsForCausalLM, builder: SequenceBuilder
) -> None:
    prompts, sampling = [[11, 12, 13, 14], [15], [16, 17]], Sampling(temperature=0)
    together = generate_codes(mars, prompts, 9, sampling)
    for prompt, codes in zip(prompts, together, strict=True):
        ids = [*prompt, mars.config.vocabulary.opener(Role.BASE)]
        for code in codes:
            logits = mars(torch.tensor([ids])).logits[0, -1, TEXT_VOCAB : TEXT_VOCAB + CODEBOOK].detach()
            assert logits[code].item() == pytest.approx(logits.max().item(), abs=1e-5)
            ids.append(TEXT_VOCAB + int(code))


@pytest.mark.slow
def test_transformers_generate_draws_what_whole_passes_choose(mars: MarsForCausalLM) -> None:
    """With its cache and without, in chunks, guided, with beams, padded on the left, and from where a cache ends."""
    ids = ids_with_pictures(mars)[:2]
    mask = torch.ones_like(ids)
    mask[0, :2] = 0  # before its picture
    settings = dict(max_new_tokens=12, do_sample=False, pad_token_id=0, logits_processor=[OnlyCodes()])
    padded = settings | dict(attention_mask=mask)
    expected = [drawn_by_whole_passes(mars, row[kept == 1], 12) for row, kept in zip(ids, mask, strict=True)]
    cached = mars.generate(ids, **padded)
    assert cached[:, 17:].tolist() == expected
    assert torch.equal(mars.generate(ids, use_cache=False, **padded), cached)
    assert torch.equal(mars.generate(ids, prefill_chunk_size=5, **padded), cached)
    beams = mars.generate(ids, num_beams=3, **padded)
    assert torch.equal(mars.generate(ids, num_beams=3, use_cache=False, **padded), beams)
    guided = mars.generate(ids, guidance_scale=2.0, **settings)
    assert torch.equal(mars.generate(ids, guidance_scale=2.0, use_cache=False, **settings), guided)
    cache = mars(ids[:, :-1], use_cache=True).past_key_values
    unpadded = mars.generate(ids, **settings)
    assert torch.equal(mars.generate(ids, past_key_values=cache, **settings), unpadded)


class OnlyCodes(LogitsProcessor):
    """Keeps `generate` in the picture."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        allowed = torch.full_like(scores, -torch.inf)
        allowed[:, TEXT_VOCAB : TEXT_VOCAB + CODEBOOK] = scores[:, TEXT_VOCAB : TEXT_VOCAB + CODEBOOK]
        return allowed


def drawn_by_whole_passes(mars: MarsForCausalLM, ids: torch.Tensor, count: int) -> list[int]:
    """The likeliest codes after the ids, each from a pass over all before it."""
    for _ in range(count):
        hidden = hidden_by_selection(mars, ids[None])[0, -1]
        code = mars.head(hidden)[TEXT_VOCAB : TEXT_VOCAB + CODEBOOK].argmax()
        ids = torch.cat([ids, code[None] + TEXT_VOCAB])
    return ids[-count:].tolist()


@pytest.mark.slow
def test_a_saved_model_loads_with_the_auto_class_and_generates_the_same(mars: MarsForCausalLM, tmp_path: Path) -> None:
    mars.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = ids_with_pictures(mars)
    assert torch.equal(loaded.eval()(ids).logits, mars(ids).logits)
    settings = dict(max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(loaded.generate(ids, **settings), mars.generate(ids, **settings))
    assert "auto_map" not in loaded.config.to_dict()
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert AutoConfig.from_pretrained(tmp_path).vocab_size == TEXT_VOCAB + CODEBOOK + 8


def test_a_trainer_gets_the_loss_from_labels_and_an_error_for_what_is_not_there(mars: MarsForCausalLM) -> None:
    ids = random_ids(mars.config.vocab_size)
    labels = ids.clone()
    labels[:, :5] = -100
    output = mars(ids, labels=labels)
    expected = F.cross_entropy(output.logits[:, 4:-1].flatten(0, 1), ids[:, 5:].flatten())
    torch.testing.assert_close(output.loss, expected)
    assert torch.equal(mars(ids, return_dict=False)[0], output.logits)
    with pytest.raises(TypeError, match="inputs_embeds"):
        mars(inputs_embeds=torch.zeros(1, 3, 32))


def test_casting_the_model_keeps_rotary_frequencies_exact(mars: MarsForCausalLM) -> None:
    """DeepSpeed casts the whole module; a model trained with rounded angles would not match its export."""
    exact = mars.model.rotary_emb.get_buffer("inv_freq").clone()
    mars.bfloat16()
    assert mars.model.rotary_emb.get_buffer("inv_freq").dtype == torch.float32
    assert torch.equal(mars.model.rotary_emb.get_buffer("inv_freq"), exact)
