"""The loss is what its definition says, packed or not, with the text prefix run apart or not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.config.tasks import Kind, Task
from pipeline.config.vocabulary import NORMALISATIONS, Role, State
from pipeline.data.collate import collate
from pipeline.data.sequences import Sequence, SequenceBuilder
from pipeline.model import loss
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.transformers_private import attention_of
from pipeline.training.objective import Objective
from tests.support.objective import WEIGHTS
from tests.support.reference import hidden_by_selection, loss_by_definition
from tests.support.small_models import CODEBOOK, TEXT_VOCAB, builder_of, small_config

CODES = np.asarray([3, 1, 4, 1, 5, 9, 2, 6, 5])
HIGH = np.asarray([2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0, 4, 5])
KINDS = [*Kind]


def samples(builder: SequenceBuilder) -> dict[Kind, list[Sequence]]:
    return {
        Kind.TEXT_TO_IMAGE: [
            builder.text_to_image([11, 12, 13], CODES, plain_position=1),
            builder.text_to_image([], CODES + 3),
            builder.text_to_image([14], CODES[::-1].copy()),
        ],
        Kind.CAPTIONING: [builder.captioning(CODES, [21, 22], "en"), builder.captioning(CODES + 5, [23], "zh")],
        Kind.HIGH_RESOLUTION: [
            builder.high_resolution([11, 12], CODES, HIGH, Role.HIGH_1, 4),
            builder.high_resolution([], CODES + 3, HIGH + 2, Role.HIGH_2, 1),
            builder.high_resolution([15], CODES, HIGH[::-1].copy(), Role.HIGH_1, 16),
            builder.high_resolution([15, 16], CODES[:4], HIGH, Role.HIGH_1, 4, plain_position=0),
        ],
        Kind.INTERLEAVED: [
            builder.interleaved([[11, 12], CODES, [13], CODES + 3, [14, 15]]),
            builder.interleaved([CODES, CODES[::-1].copy()]),
        ],
    }


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_give_the_loss_and_gradients_of_their_samples_alone(
    mars: MarsForCausalLM, builder: SequenceBuilder, kind: Kind, attention: str, normalisation: str
) -> None:
    mars.freeze_language_expert()
    sequences = samples(builder)[kind]
    trained = [p for p in mars.parameters() if p.requires_grad]
    expected = sum(
        (loss_by_definition(mars, each, WEIGHTS, normalisation == "joint") for each in sequences), torch.zeros(())
    )
    expected_gradients = torch.autograd.grad(expected, trained)

    batch = collate(kind, [sequences[:2], sequences[2:]], builder.vocabulary, WEIGHTS, 8)
    mars.set_attn_implementation(attention)
    assert attention_of(mars) == attention
    packed = Objective(mars, normalisation)([batch]).loss
    torch.testing.assert_close(packed, expected)
    for own, other in zip(torch.autograd.grad(packed, trained), expected_gradients, strict=True):
        torch.testing.assert_close(own, other, atol=2e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_give_the_logits_of_their_samples_alone(
    mars: MarsForCausalLM, builder: SequenceBuilder, kind: Kind, attention: str
) -> None:
    assert_logits_are_those_of_the_samples_alone(mars, samples(builder)[kind], attention)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Kind.HIGH_RESOLUTION, Kind.INTERLEAVED])
def test_flex_attention_sees_what_the_other_attentions_see(kind: Kind) -> None:
    """Its forward pass: on a CPU it has no other. Not compiled: torch 2.13 makes NaN of it on CPUs with AVX2."""
    mars = MarsForCausalLM(small_config()).eval()
    builder = builder_of(mars)
    with torch.compiler.set_stance("force_eager"):
        assert_logits_are_those_of_the_samples_alone(mars, samples(builder)[kind], "flex_attention")


def assert_logits_are_those_of_the_samples_alone(
    mars: MarsForCausalLM, sequences: list[Sequence], attention: str
) -> None:
    mars.set_attn_implementation(attention)
    assert attention_of(mars) == attention
    batch = collate(sequences[0].kind, [sequences], mars.config.vocabulary, WEIGHTS, 8)
    with torch.no_grad():
        text, visual = Objective(mars).hidden_states([batch])[0]
        mars.set_attn_implementation("sdpa")
        for number, sequence in enumerate(sequences):
            ids, run = torch.from_numpy(sequence.ids), slice(0, sequence.num_run)
            alone = mars.head(hidden_by_selection(mars, ids[None], torch.from_numpy(sequence.groups))[0, run])
            is_visual = ids[run] >= TEXT_VOCAB
            for hidden, stream, chosen in ((text, batch.text, ~is_visual), (visual, batch.visual, is_visual)):
                packed = mars.head(hidden[0, stream.places.samples[0] == number])
                torch.testing.assert_close(packed, alone[chosen], atol=2e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("group_size", [1, 2, 4, 16])
def test_no_prediction_sees_its_own_label_and_every_one_sees_all_before_its_group(
    mars: MarsForCausalLM, builder: SequenceBuilder, group_size: int
) -> None:
    """With the gradient of each labelled hidden state for the embedding of each position."""
    sequence = builder.high_resolution([11, 12], CODES, HIGH, Role.HIGH_1, group_size)
    batch = collate(Kind.HIGH_RESOLUTION, [[sequence]], builder.vocabulary, WEIGHTS, 1)
    embedded = []
    mars.model.embed_visual.register_forward_hook(lambda *call: embedded.append(call[-1]))
    _, visual = Objective(mars).hidden_states([batch])[0]
    first = len(sequence.ids) - len(HIGH) - group_size  # the first opener of the high resolution
    num_text = 2
    for place, code in enumerate(HIGH):
        position = first + place
        (gradient,) = torch.autograd.grad(visual[0, position - num_text].sum(), embedded[0], retain_graph=True)
        seen = gradient[0].abs().sum(-1) > 0
        end_of_group = first + (place // group_size + 1) * group_size
        assert sequence.ids[position + group_size] == TEXT_VOCAB + code  # where the label itself is an input
        assert position + group_size >= end_of_group
        assert seen.tolist() == [at + num_text < end_of_group for at in range(len(seen))]


@pytest.mark.parametrize("group_size", [1, 4])
def test_labels_sit_where_the_sequence_says(builder: SequenceBuilder, group_size: int) -> None:
    vocabulary = builder.vocabulary
    image = builder.text_to_image([11, 12], CODES)
    assert image.ids[2] == vocabulary.opener(Role.BASE) and image.ids[-1] == vocabulary.closer(Role.BASE)
    assert image.label_positions.tolist() == [1, *range(2, 2 + len(CODES))]
    assert image.label_ids.tolist() == [vocabulary.opener(Role.BASE), *(CODES + TEXT_VOCAB)]
    assert image.label_tasks.tolist() == [Task.OPENER.value] + [Task.TEXT_TO_IMAGE.value] * len(CODES)
    assert image.num_run == len(image.ids) - 2  # neither the last code nor the closer predicts anything
    taught = builder.text_to_image([11, 12, 13], CODES, plain_position=1)
    assert (taught.label_positions[0], taught.label_ids[0], taught.label_tasks[0]) == (1, 13, Task.PLAIN_TEXT.value)
    assert taught.label_ids[1:].tolist() == image.label_ids.tolist()
    dropped = builder.text_to_image([], CODES)
    assert dropped.label_positions.tolist() == [*range(len(CODES))]
    assert dropped.label_ids.tolist() == [*(CODES + TEXT_VOCAB)]
    caption = builder.captioning(CODES, [21, 22], "zh")
    assert caption.ids[:2].tolist() == [8, 9]
    assert caption.label_ids.tolist() == [21, 22, builder.end_id]
    assert caption.ids[caption.label_positions].tolist() == [vocabulary.closer(Role.BASE), 21, 22]
    document = builder.interleaved([CODES, [11, 12], CODES + 3, [13]])
    opener = vocabulary.opener(Role.BASE)
    second = builder.text_to_image([], CODES + 3).ids
    assert document.ids.tolist() == [*dropped.ids, 11, 12, *second, 13, builder.end_id]
    # All ids after the first opener but the closers.
    expected = [*(CODES + TEXT_VOCAB), 11, 12, opener, *(CODES + 3 + TEXT_VOCAB), 13, builder.end_id]
    assert document.label_ids.tolist() == expected
    assert document.ids[document.label_positions + 1].tolist() == expected
    is_text = [Task(task) is Task.DOCUMENT_TEXT for task in document.label_tasks]
    assert is_text == [False] * len(CODES) + [True] * 3 + [False] * len(CODES) + [True] * 2
    assert document.num_run == len(document.ids) - 1
    text_first = builder.interleaved([[11, 12], CODES])
    assert text_first.label_ids.tolist() == [12, opener, *(CODES + TEXT_VOCAB), builder.end_id]
    assert [Task(task) for task in text_first.label_tasks[[0, 1, 2, -1]]] == [
        *(Task.PLAIN_TEXT, Task.DOCUMENT_TEXT, Task.TEXT_TO_IMAGE, Task.DOCUMENT_TEXT)
    ]
    high = builder.high_resolution([11, 12], CODES, HIGH, Role.HIGH_1, group_size)
    start = len(image.ids)
    assert high.ids[:start].tolist() == image.ids.tolist()
    assert high.ids[start : start + group_size].tolist() == [vocabulary.opener(Role.HIGH_1)] * group_size
    assert high.ids[start + group_size :].tolist() == [*(HIGH + TEXT_VOCAB)]
    assert high.label_positions.tolist() == [*image.label_positions, *range(start, start + len(HIGH))]
    assert high.label_ids.tolist() == [*image.label_ids, *(HIGH + TEXT_VOCAB)]
    assert high.label_tasks[len(image.label_ids) :].tolist() == [Task.HIGH_RESOLUTION.value] * len(HIGH)
    assert high.num_run == len(high.ids) - group_size


def test_a_group_size_that_does_not_divide_the_codes_is_refused(builder: SequenceBuilder) -> None:
    with pytest.raises(ValueError, match="5 does not divide the 16"):
        builder.high_resolution([1], CODES, HIGH, Role.HIGH_1, 5)
    with pytest.raises(ValueError, match="needs a picture"):
        builder.interleaved([[1, 2]])


def test_an_unknown_caption_language_is_refused_by_name(builder: SequenceBuilder) -> None:
    with pytest.raises(ValueError, match="'fr'.*en, zh"):
        builder.captioning(CODES, [1], "fr")


def test_the_loss_in_chunks_equals_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, text, visual = torch.randn(37, 16), torch.randn(50, 16), torch.randn(9, 16)
    labels, weights = torch.randint(59, (37,)), torch.rand(37)
    hidden.requires_grad_(), visual.requires_grad_()
    plain = (F.cross_entropy(hidden @ torch.cat([text, visual]).T, labels, reduction="none") * weights).sum()
    expected = torch.autograd.grad(plain, (hidden, visual))
    monkeypatch.setitem(loss.LOSS_CHUNK_BYTES, "cpu", 4 * 59 * 5)
    total, losses = loss.linear_cross_entropy(hidden, text, visual, labels, weights)
    torch.testing.assert_close(total, plain)
    torch.testing.assert_close((losses * weights).sum(), plain)
    for own, other in zip(torch.autograd.grad(total, (hidden, visual)), expected, strict=True):
        torch.testing.assert_close(own, other)


def test_no_label_at_all_is_a_loss_of_zero() -> None:
    """A rank whose rows carry no label still takes part in the step."""
    visual = torch.randn(9, 16, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    total, _ = loss.linear_cross_entropy(torch.zeros(0, 16), torch.randn(5, 16), visual, none, torch.zeros(0))
    total.backward()
    assert total.item() == 0 and visual.grad.abs().sum() == 0


def test_the_head_allows_what_the_state_allows(mars: MarsForCausalLM) -> None:
    hidden = torch.randn(2, mars.config.hidden_size)
    every = mars.head(hidden)
    assert every.shape[-1] == mars.config.vocab_size
    assert torch.equal(mars.head(hidden, State.CODES), every[:, TEXT_VOCAB : TEXT_VOCAB + CODEBOOK])
    openers = [mars.config.vocabulary.opener(role) for role in Role]
    torch.testing.assert_close(mars.head(hidden, State.TEXT), every[:, [*range(TEXT_VOCAB), *openers]])


@pytest.mark.slow
@pytest.mark.parametrize("state", [State.TEXT, State.CODES, None])
def test_the_loss_and_decoding_find_an_id_at_the_same_place(mars: MarsForCausalLM, state: State | None) -> None:
    """The loss and decoding use the same index for the logit of an id."""
    vocabulary = mars.config.vocabulary
    allowed = vocabulary.allowed(state)
    ids = allowed.ids(torch.arange(mars.head(torch.zeros(1, mars.config.hidden_size), state).shape[-1]))
    openers = [vocabulary.opener(role) for role in Role]
    codes = [*range(TEXT_VOCAB, TEXT_VOCAB + CODEBOOK)]
    expected = {State.TEXT: [*range(TEXT_VOCAB), *openers], State.CODES: codes, None: [*range(vocabulary.size)]}
    assert ids.tolist() == expected[state]
    assert allowed.places(ids).tolist() == list(range(len(ids)))
    assert allowed.places(ids.numpy()).tolist() == list(range(len(ids)))
