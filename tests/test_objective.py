"""The loss is what its definition says, packed or not, with the text prefix run apart or not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import loss
from pipeline.collate import collate
from pipeline.objective import Objective
from pipeline.sequences import Kind, Task
from pipeline.stage_config import ATTENTIONS
from pipeline.vocabulary import Role, State
from tests.conftest import CODEBOOK, TEXT_VOCAB

WEIGHTS = [0.3, 0.7, 0.2]
CODES = np.asarray([3, 1, 4, 1, 5, 9, 2, 6, 5])


def samples(builder):
    return {
        Kind.TEXT_TO_IMAGE: [
            builder.text_to_image([11, 12, 13], CODES),
            builder.text_to_image([], CODES + 3),
            builder.text_to_image([14], CODES[::-1].copy()),
        ],
        Kind.CAPTIONING: [builder.captioning(CODES, [21, 22], "en"), builder.captioning(CODES + 5, [23], "zh")],
    }


def definition(model, sequence) -> torch.Tensor:
    """The loss of one sample from the model's plain logits, position by position."""
    vocabulary = model.config.vocabulary
    logits = model(torch.from_numpy(sequence.ids)[None]).logits[0]
    openers = [vocabulary.opener(role) for role in Role]
    total = logits.new_zeros(())
    for position, label, task in zip(sequence.label_positions, sequence.label_ids, sequence.label_tasks, strict=True):
        is_code = TEXT_VOCAB <= label < TEXT_VOCAB + CODEBOOK
        allowed = range(TEXT_VOCAB, TEXT_VOCAB + CODEBOOK) if is_code else [*range(TEXT_VOCAB), *openers]
        row = logits[position][list(allowed)]
        total = total + WEIGHTS[task] * F.cross_entropy(row[None], torch.tensor([list(allowed).index(label)]))
    return total


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("kind", list(Kind))
def test_packed_rows_give_the_loss_and_gradients_of_their_samples_alone(mars, builder, kind, attention):
    mars.freeze_language_expert()
    sequences = samples(builder)[kind]
    trained = [p for p in mars.parameters() if p.requires_grad]
    expected = sum(definition(mars, sequence) for sequence in sequences)
    expected_gradients = torch.autograd.grad(expected, trained, allow_unused=True)

    batch = collate(kind, [sequences[:2], sequences[2:]], builder.vocabulary, WEIGHTS, 8)
    mars.set_attn_implementation(attention)
    assert mars.config._attn_implementation == attention
    packed = Objective(mars)([batch]).loss
    gradients = torch.autograd.grad(packed, trained, allow_unused=True)
    torch.testing.assert_close(packed, expected)
    for own, other in zip(gradients, expected_gradients, strict=True):
        own = torch.zeros(()) if own is None else own
        other = torch.zeros(()) if other is None else other
        torch.testing.assert_close(own, other.expand_as(own) if other.dim() == 0 else other, atol=2e-6, rtol=1e-4)


def test_labels_sit_where_the_sequence_says(builder):
    vocabulary = builder.vocabulary
    image = builder.text_to_image([11, 12], CODES)
    assert image.ids[2] == vocabulary.opener(Role.BASE) and image.ids[-1] == vocabulary.closer(Role.BASE)
    assert image.label_positions.tolist() == [1, *range(2, 2 + len(CODES))]
    assert image.label_ids.tolist() == [vocabulary.opener(Role.BASE), *(CODES + TEXT_VOCAB)]
    assert image.label_tasks.tolist() == [Task.OPENER.value] + [Task.TEXT_TO_IMAGE.value] * len(CODES)
    caption = builder.captioning(CODES, [21, 22], "zh")
    assert caption.ids[:2].tolist() == [8, 9]
    assert caption.label_ids.tolist() == [21, 22, builder.end_id]
    assert caption.ids[caption.label_positions[0]] == vocabulary.closer(Role.BASE)


def test_an_unknown_caption_language_is_refused_by_name(builder):
    with pytest.raises(ValueError, match="'fr'.*en, zh"):
        builder.captioning(CODES, [1], "fr")


def test_the_loss_in_chunks_equals_the_plain_one(monkeypatch):
    torch.manual_seed(0)
    hidden, text, visual = torch.randn(37, 16), torch.randn(50, 16), torch.randn(9, 16)
    labels, weights = torch.randint(59, (37,)), torch.rand(37)
    hidden.requires_grad_(), visual.requires_grad_()
    plain = (F.cross_entropy(hidden @ torch.cat([text, visual]).T, labels, reduction="none") * weights).sum()
    expected = torch.autograd.grad(plain, (hidden, visual))
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 59 * 5)
    total, losses = loss.linear_cross_entropy(hidden, text, visual, labels, weights)
    torch.testing.assert_close(total, plain)
    torch.testing.assert_close((losses * weights).sum(), plain)
    for own, other in zip(torch.autograd.grad(total, (hidden, visual)), expected, strict=True):
        torch.testing.assert_close(own, other)


def test_no_label_at_all_is_a_loss_of_zero():
    """A rank whose rows carry no label still takes part in the step."""
    visual = torch.randn(9, 16, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    total, _ = loss.linear_cross_entropy(torch.zeros(0, 16), torch.randn(5, 16), visual, none, torch.zeros(0))
    total.backward()
    assert total.item() == 0 and visual.grad.abs().sum() == 0


def test_the_head_allows_what_the_state_allows(mars):
    hidden = torch.randn(2, mars.config.hidden_size)
    every = mars.head(hidden)
    assert every.shape[-1] == mars.config.vocab_size
    assert torch.equal(mars.head(hidden, State.CODES), every[:, TEXT_VOCAB : TEXT_VOCAB + CODEBOOK])
    openers = [mars.config.vocabulary.opener(role) for role in Role]
    torch.testing.assert_close(mars.head(hidden, State.TEXT), every[:, [*range(TEXT_VOCAB), *openers]])
