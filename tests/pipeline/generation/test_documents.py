"""Documents that the model illustrates by itself keep to what each state allows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from pipeline.config.tasks import Kind, Task
from pipeline.config.vocabulary import Role, State
from pipeline.data.collate import collate
from pipeline.generation.decoder import Decoder
from pipeline.generation.documents import DocumentLimits, generate_documents, opener_share
from pipeline.generation.sampling import Sampling
from pipeline.model.mars import MarsForCausalLM
from pipeline.training.objective import Objective
from tests.support.models import random_model
from tests.support.reference import hidden_by_selection
from tests.support.small_models import CODEBOOK, END_ID, TEXT_VOCAB, builder_of, small_config

NUM_CODES = 5
PROMPTS = [[11, 12, 13, 14], [15], [16, 17], [18, 19, 20]]
LIMITS = DocumentLimits(num_codes=NUM_CODES, max_pictures=2, max_text_ids=12)
HOT = Sampling(temperature=3.0)


def eager_model() -> MarsForCausalLM:
    """A model that often opens pictures of all roles, and sometimes ends."""
    model = random_model()
    hidden = model.model(torch.tensor([[*range(40, 60)]])).last_hidden_state[0].mean(0)
    for role in Role:
        model.head.visual_weight.data[CODEBOOK + 2 * role.value] += 3.0 * hidden
    model.head.text_weight.data[END_ID] += 1.0 * hidden
    return model


def of_one(segments: list) -> list[int]:
    """A document's joint ids, borders and all, as its pictures and texts say."""
    vocabulary, ids = small_config().vocabulary, []
    for segment in segments:
        if isinstance(segment, list):
            ids += segment
        else:
            ids += [vocabulary.opener(Role.BASE), *(segment + vocabulary.code_offset), vocabulary.closer(Role.BASE)]
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("seed", range(8))
def test_no_id_is_ever_one_that_its_state_forbids(monkeypatch: pytest.MonkeyPatch, seed: int, scale: float) -> None:
    """The test checks the ids that the decoder ran, row by row, and not the result."""
    model = eager_model()
    vocabulary = model.config.vocabulary
    fed: dict[int, list[tuple[int, int]]] = {row: [] for row in range(len(PROMPTS))}

    def recorded(run: Callable) -> Callable:
        def recording(decoder: Any, ids: torch.Tensor, positions: torch.Tensor, *rest: Any) -> Any:
            for row in range(len(PROMPTS)):
                if positions[row, 0] != decoder.idle_position and ids.shape[1] == 1:
                    fed[row].append((int(positions[row, 0]), int(ids[row, 0])))
            return run(decoder, ids, positions, *rest)

        return recording

    monkeypatch.setattr(Decoder, "text", recorded(Decoder.text))
    monkeypatch.setattr(Decoder, "visual", recorded(Decoder.visual))
    sampling = Sampling(temperature=3.0, guidance_scale=scale, seed=seed)
    seeds = [seed * 10 + row for row in range(len(PROMPTS))]
    documents = generate_documents(model, PROMPTS, LIMITS, END_ID, sampling, seeds)
    opener, closer = vocabulary.opener(Role.BASE), vocabulary.closer(Role.BASE)
    for row, document in enumerate(documents):
        ids = [joint_id for _, joint_id in fed[row]]
        start = len(PROMPTS[row])
        assert [position for position, _ in fed[row]] == [*range(start, start + len(ids))]
        assert of_one(document)[: len(ids)] == ids, "the result is not what the model saw"
        assert len(of_one(document)) - len(ids) <= 1, "all but what ended the document was run"
        at = text = pictures = 0
        while at < len(ids):
            if ids[at] == opener:
                picture = ids[at + 1 : at + 1 + NUM_CODES]
                assert len(picture) == NUM_CODES
                assert all(TEXT_VOCAB <= code < TEXT_VOCAB + CODEBOOK for code in picture)
                assert ids[at + 1 + NUM_CODES : at + 2 + NUM_CODES] in ([closer], [])
                at, pictures = at + NUM_CODES + 2, pictures + 1
            else:
                assert ids[at] < TEXT_VOCAB and ids[at] != END_ID
                at, text = at + 1, text + 1
        assert pictures <= LIMITS.max_pictures and text <= LIMITS.max_text_ids
    assert any(isinstance(segment, np.ndarray) for document in documents for segment in document)


def test_rows_of_a_batch_are_in_different_states_and_each_is_what_it_is_alone() -> None:
    model = eager_model()
    seeds = [1, 2, 3, 4]
    sampling = Sampling(temperature=3.0, guidance_scale=2.0)
    together = generate_documents(model, PROMPTS, LIMITS, END_ID, sampling, seeds, prompt_len=4)
    layouts = {tuple(type(segment) for segment in document) for document in together}
    assert len(layouts) > 1, "the rows do not differ"
    turned = generate_documents(model, PROMPTS[::-1], LIMITS, END_ID, sampling, seeds[::-1], prompt_len=4)
    others = [PROMPTS[0], [21], [22, 23], [24, 25, 26, 27]]
    beside = generate_documents(model, others, LIMITS, END_ID, sampling, [1, 7, 8, 9], prompt_len=4)
    assert [of_one(document) for document in together] == [of_one(document) for document in turned[::-1]]
    assert of_one(beside[0]) == of_one(together[0])


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_greedy_documents_are_the_whole_passes_likeliest(scale: float) -> None:
    """The unconditional half of a picture is its opener and codes alone, wherever in the document it stands."""
    model = eager_model()
    vocabulary, allowed = model.config.vocabulary, model.config.vocabulary.allowed(State.TEXT)
    sampling = Sampling(temperature=0, guidance_scale=scale)
    documents = generate_documents(model, PROMPTS, LIMITS, END_ID, sampling)
    assert any(isinstance(segment, np.ndarray) for document in documents for segment in document)
    for prompt, document in zip(PROMPTS, documents, strict=True):
        ids, pictures = list(prompt), 0
        for joint_id in of_one(document):
            logits = model.head(hidden_by_selection(model, torch.tensor([ids]))[0, -1])
            if joint_id >= TEXT_VOCAB + CODEBOOK and joint_id == vocabulary.closer(Role.BASE):
                pictures += 1
            elif TEXT_VOCAB <= joint_id < TEXT_VOCAB + CODEBOOK:
                own = ids[len(ids) - 1 - ids[::-1].index(vocabulary.opener(Role.BASE)) :]
                alone = model.head(hidden_by_selection(model, torch.tensor([own]))[0, -1])
                mixed = (alone + scale * (logits - alone))[TEXT_VOCAB : TEXT_VOCAB + CODEBOOK]
                assert mixed[joint_id - TEXT_VOCAB] >= mixed.max() - 1e-3
            else:
                choices = [*range(TEXT_VOCAB), *([vocabulary.opener(Role.BASE)] if pictures < 2 else [])]
                assert logits[joint_id] >= logits[choices].max() - 1e-3
                assert joint_id in allowed.ids(torch.arange(TEXT_VOCAB + 3))
            ids.append(joint_id)


def test_documents_end_at_the_end_id_and_at_their_limits() -> None:
    model = eager_model()
    no_pictures = DocumentLimits(NUM_CODES, max_pictures=0, max_text_ids=7)
    for document in generate_documents(model, PROMPTS, no_pictures, -1, HOT):
        (text,) = document
        assert isinstance(text, list) and len(text) == 7
    first = generate_documents(model, PROMPTS[:1], no_pictures, -1, HOT)[0][0]
    end = next(place for place, joint_id in enumerate(first) if place and joint_id not in first[:place])
    assert generate_documents(model, PROMPTS[:1], no_pictures, first[end], HOT)[0] == [first[:end]]
    model.head.visual_weight.data[CODEBOOK] *= 1000
    wild = generate_documents(model, PROMPTS, DocumentLimits(NUM_CODES, 3, 4), -1, Sampling(temperature=50.0))
    for document in wild:
        assert sum(isinstance(segment, np.ndarray) for segment in document) <= 3
        assert sum(len(segment) for segment in document if isinstance(segment, list)) == 4


def test_an_untrained_model_opens_no_picture_in_plain_text(base: Qwen2ForCausalLM) -> None:
    """At the start an opener has the mean word's row, so it is nowhere the most likely id."""
    model = MarsForCausalLM.from_language_expert(base, CODEBOOK).eval()
    share = opener_share(model, plain_texts(50))
    assert share.greedy == 0
    assert share.probability < 2 * len(Role) / TEXT_VOCAB


@pytest.mark.slow
@pytest.mark.parametrize("base", ["grouped heads, tied", "plain heads, untied"], indirect=True)
def test_a_trained_model_opens_pictures_after_captions_and_in_no_plain_text(base: Qwen2ForCausalLM) -> None:
    """Captions end with one word; plain texts do without it. Openers that no label tells where not to come, come
    everywhere."""
    base.model.norm.weight.data *= 60  # a language model is sure of something
    model = MarsForCausalLM.from_language_expert(base, CODEBOOK)
    builder, codes = builder_of(model), np.arange(NUM_CODES)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    weights = [0.5 if task is not Task.PLAIN_TEXT else 2.0 for task in Task]
    for step in range(200):
        samples = [
            builder.text_to_image([*text, 22], codes, plain_position=(step + place) % len(text))
            for place, text in enumerate(plain_texts(8, seed=100 + step))
        ]
        batch = collate(Kind.TEXT_TO_IMAGE, [[each] for each in samples], builder.vocabulary, weights)
        optimizer.zero_grad()
        Objective(model)([batch]).loss.backward()
        optimizer.step()
    texts = plain_texts(50)
    share = opener_share(model.eval(), texts)
    assert share.greedy < 0.05 and share.probability < 0.05, share
    ended = [model(torch.tensor([[*text, 22]])).logits[0, -1].argmax().item() for text in texts]
    assert np.mean(np.asarray(ended) == builder.vocabulary.opener(Role.BASE)) > 0.9


def plain_texts(count: int, seed: int = 1) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(30, TEXT_VOCAB - 10, generator.integers(1, 12)).tolist() for _ in range(count)]


def test_the_share_of_openers_counts_positions_and_probability() -> None:
    model = eager_model()
    texts = [[11, 12, 13], [14], []]
    rows = [model(torch.tensor([text])).logits[0] for text in texts[:2]]
    logits = torch.cat(rows)[:, [*range(TEXT_VOCAB), *(TEXT_VOCAB + CODEBOOK + 2 * role.value for role in Role)]]
    share = opener_share(model, texts)
    assert share.greedy == pytest.approx((logits.argmax(-1) >= TEXT_VOCAB).float().mean().item())
    assert share.probability == pytest.approx(torch.softmax(logits, -1)[:, TEXT_VOCAB:].sum(-1).mean().item(), rel=1e-4)
    assert 0 < share.probability < 1
    with pytest.raises(ValueError, match="no text"):
        opener_share(model, [[]])
