"""Retrieval counts a caption's own picture and a picture's own caption, and is not fooled by a likely picture."""

from typing import Any

import numpy as np
import pytest

from pipeline.config.tasks import Task
from pipeline.data.rows import Caption, Row
from pipeline.data.sequences import Sequence
from pipeline.held_out_scores.retrieval import distinct_pairs, retrieval
from pipeline.model.mars import MarsForCausalLM
from tests.support.small_models import CODEBOOK, builder_of, small_config

BUILDER = builder_of(MarsForCausalLM(small_config(codebook_size=CODEBOOK)))


def rows(count: int) -> list[Row]:
    return [Row(f"0/{n}", np.full(9, n, np.uint16), None, [Caption("en", [20 + n], 2)]) for n in range(count)]


def knowing(pairs: int) -> Any:
    """Losses of a model that knows the first pairs: 3 nats less for a picture with its own caption. A picture costs as
    many nats as its number squared, whatever the caption."""

    def nats(objective: object, samples: list[Sequence]) -> np.ndarray:
        found = np.zeros((len(samples), len(Task)))
        for number, sample in enumerate(samples):
            picture = int(sample.label_ids[-1]) - BUILDER.vocabulary.code_offset
            caption = int(sample.ids[0]) - 20 if sample.ids[0] < 100 else None
            knows = caption == picture and picture < pairs
            found[number, Task.TEXT_TO_IMAGE.value] = 100 + picture**2 - 3 * knows
        return found

    return nats


@pytest.mark.parametrize("known", [8, 3])
def test_a_model_finds_the_pairs_that_it_knows(monkeypatch: pytest.MonkeyPatch, known: int) -> None:
    monkeypatch.setattr("pipeline.held_out_scores.retrieval.sample_nats", knowing(known))
    found = retrieval(None, rows(8), "en", 8, BUILDER)  # type: ignore[arg-type]
    assert found and found.pairs == 8
    assert found.picture_of_caption == found.caption_of_picture == known / 8
    fewer = retrieval(None, rows(8), "en", 4, BUILDER)  # type: ignore[arg-type]
    assert fewer and fewer.pairs == 4 and fewer.picture_of_caption == min(known, 4) / 4


def test_pairs_that_cannot_be_told_apart_are_left_out() -> None:
    same_caption = Row("0/a", np.full(9, 30, np.uint16), None, [Caption("en", [20], 2)])
    same_picture = Row("0/b", np.full(9, 1, np.uint16), None, [Caption("en", [99], 2)])
    other_language = Row("0/c", np.full(9, 31, np.uint16), None, [Caption("zh", [98], 2)])
    pairs = distinct_pairs([*rows(3), same_caption, same_picture, other_language], "en")
    assert [row.sample_id for row, _ in pairs] == ["0/0", "0/1", "0/2"]
    assert retrieval(None, rows(3), "zh", 8, BUILDER) is None  # type: ignore[arg-type]
