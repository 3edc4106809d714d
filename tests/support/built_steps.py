"""Compares steps that were built in different ways."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.config.vocabulary import JointVocabulary
from pipeline.data.sequences import SequenceBuilder
from tests.support.small_models import CODEBOOK, END_ID, TEXT_VOCAB


def builder() -> SequenceBuilder:
    return SequenceBuilder(JointVocabulary(TEXT_VOCAB, CODEBOOK), {"en": [5, 6, 7], "zh": [8, 9]}, END_ID)


def leaves(value: Any) -> list[Any]:
    """All values inside of dataclasses, lists and tuples."""
    if is_dataclass(value):
        return leaves([getattr(value, field.name) for field in fields(value)])
    return [leaf for each in value for leaf in leaves(each)] if isinstance(value, list | tuple) else [value]


def assert_equal(one: Any, other: Any) -> None:
    mine, others = leaves(one), leaves(other)
    assert len(mine) == len(others) > 40
    for first, second in zip(mine, others, strict=True):
        assert type(first) is type(second)
        if isinstance(first, Tensor | np.ndarray):
            assert first.dtype == second.dtype
        assert np.array_equal(first, second)
