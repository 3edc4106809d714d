"""Openers are counted where they come without need, and where they belong."""

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.stage import INSTRUCTIONS
from pipeline.config.vocabulary import Role, State
from pipeline.data.sequences import SequenceBuilder
from pipeline.evaluation.openers import RUNNING_TEXT, opener_recall
from pipeline.model.mars import MarsForCausalLM


def documents_of(builder: SequenceBuilder) -> list[list[int]]:
    random = np.random.default_rng(0)
    parts = [[random.integers(0, 40, 3).tolist(), random.integers(0, 9, 4)] * count for count in (1, 2, 5)]
    return [builder.interleaved(each).ids.tolist() for each in parts]


def test_an_opener_is_found_where_it_is_the_likeliest_id(mars: MarsForCausalLM, builder: SequenceBuilder) -> None:
    documents, opener = documents_of(builder), builder.vocabulary.opener(Role.BASE)
    place = int(builder.vocabulary.allowed(State.TEXT).places(torch.tensor(opener)))
    expected = []
    for ids in documents:
        hidden = mars.model(torch.tensor([ids])).last_hidden_state[0]
        likeliest = mars.head(hidden, State.TEXT).argmax(-1).tolist()
        expected += [likeliest[at] == place for at in range(len(ids) - 1) if ids[at + 1] == opener]
    assert len(expected) == 8
    assert opener_recall(mars, documents) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(("bias", "share"), [(1e6, 1.0), (-1e6, 0.0)], ids=["always", "never"])
def test_a_head_that_always_opens_finds_all_and_one_that_never_does_none(
    mars: MarsForCausalLM, builder: SequenceBuilder, monkeypatch: pytest.MonkeyPatch, bias: float, share: float
) -> None:
    opener, real = torch.tensor(builder.vocabulary.opener(Role.BASE)), mars.head.forward

    def biased(*words: Any) -> Any:
        logits: Any = real(*words)
        logits[:, builder.vocabulary.allowed(State.TEXT).places(opener)] += bias
        return logits

    monkeypatch.setattr(mars.head, "forward", biased)
    assert opener_recall(mars, documents_of(builder)) == share


def test_documents_without_a_picture_have_no_recall(mars: MarsForCausalLM) -> None:
    with pytest.raises(ValueError, match="no picture"):
        opener_recall(mars, [[1, 2, 3]])


def test_there_is_running_text_in_every_language_of_the_stages() -> None:
    assert set(RUNNING_TEXT) == set(INSTRUCTIONS) and all(len(set(texts)) == 8 for texts in RUNNING_TEXT.values())
