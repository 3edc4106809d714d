"""Makes plans of the shipped recipes."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np

from jobs.common.recipes import load_recipe
from pipeline.config.vocabulary import JointVocabulary
from pipeline.data.batch_plan import StagePlan
from pipeline.data.rows import Caption, Row
from pipeline.data.sample_lengths import SampleLengths
from pipeline.data.sample_order import MixedOrder, SampleOrder
from pipeline.data.sample_plan import SamplePlan
from pipeline.data.sequences import Sequence, SequenceBuilder


class WebLikeRows:
    """Rows with 256 codes and captions of 77 ids on average: lognormal, a tenth of them above 155, up to 512."""

    def span(self, start: int, stop: int) -> np.ndarray:
        return np.column_stack([np.zeros(stop - start, np.int64), np.arange(start, stop)])

    def near(self, number: int) -> list[int]:
        return [0]

    def ahead(self, shards: list[int]) -> None:
        pass

    def lengths(self, shards: np.ndarray, indices: np.ndarray) -> SampleLengths:
        return SampleLengths.of_rows([self.row(0, index) for index in indices.tolist()])

    def sample_ids(self, shards: np.ndarray, indices: np.ndarray) -> list[str]:
        return [str(index) for index in indices.tolist()]

    @cache  # noqa: B019
    def row(self, shard: int, place: int) -> Row:
        generator = np.random.default_rng(place)
        length = int(np.clip(round(generator.lognormal(np.log(77) - 0.32, 0.8)), 1, 512))
        captions = [Caption("en", [*range(length)], length)]
        return Row(str(place), np.zeros(256, np.uint16), np.zeros(4096, np.uint16), captions)


class RememberingPlan(StagePlan):
    """Plans a step and builds its sequences once, and reuses them for every rank."""

    def planned(self, step: int, samples: np.ndarray) -> SamplePlan:
        key = (self.stage_number, len(samples), step)
        planned: SamplePlan = once(key, lambda: super(RememberingPlan, self).planned(step, samples))
        return planned

    def _sequence(self, row: Row, planned: SamplePlan, number: int, noise_key: tuple[int, int]) -> Sequence:
        key = (self.stage_number, self.stage.global_batch_size, *noise_key)
        sequence: Sequence = once(key, lambda: super(RememberingPlan, self)._sequence(row, planned, number, noise_key))
        return sequence


MADE: dict[tuple, Any] = {}


def once(key: tuple, make: Callable[[], Any]) -> Any:
    if key not in MADE:
        MADE[key] = make()
    return MADE[key]


def plan_of_mars_7b(stage_number: int, **changes: Any) -> StagePlan:
    rows = WebLikeRows()
    builder = SequenceBuilder(JointVocabulary(), {"en": [1] * 8, "zh": [2] * 8}, 151_643)
    recipe = load_recipe("mars_7b")
    assert (recipe.tokenization.size_px, recipe.tokenization.max_caption_ids) == (256, 512)
    stage = replace(recipe.stages[stage_number - 1], **({"attention": "sdpa"} | changes))  # which needs no blocks
    order = MixedOrder([cast(SampleOrder, rows)], [1.0], stage.global_batch_size)
    return RememberingPlan(stage, stage_number, 0, order, [rows], builder)
