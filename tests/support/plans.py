"""Makes plans of the shipped recipes."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np

from jobs.common.recipes import load_recipe
from pipeline.config.vocabulary import JointVocabulary
from pipeline.data.batch_plan import StagePlan
from pipeline.data.sample_order import MixedOrder, SampleOrder
from pipeline.data.sequences import Sequence, SequenceBuilder
from pipeline.data.token_reader import Caption, Row


class WebLikeRows:
    """Rows with 256 codes and captions of 77 ids on average: lognormal, a tenth of them above 155, up to 512."""

    def at(self, number: int) -> tuple[int, int]:
        return 0, number

    def near(self, number: int) -> list[int]:
        return [0]

    def ahead(self, shards: list[int]) -> None:
        pass

    @cache  # noqa: B019
    def row(self, shard: int, place: int) -> Row:
        generator = np.random.default_rng(place)
        length = int(np.clip(round(generator.lognormal(np.log(77) - 0.32, 0.8)), 1, 512))
        captions = [Caption("en", [*range(length)], length)]
        return Row(str(place), np.zeros(256, np.uint16), np.zeros(4096, np.uint16), captions)


class RememberingPlan(StagePlan):
    """Builds a step's sequences once and reuses them for every rank."""

    def _sequence(self, row: Any, *draws: Any) -> Sequence:
        return built_once(
            self.stage_number, row.sample_id, draws, lambda: super(RememberingPlan, self)._sequence(row, *draws)
        )


BUILT: dict[tuple, Sequence] = {}


def built_once(stage_number: int, sample_id: str, draws: tuple, build: Callable) -> Sequence:
    key = (stage_number, sample_id, draws)
    if key not in BUILT:
        BUILT[key] = build()
    return BUILT[key]


def plan_of_mars_7b(stage_number: int, **changes: Any) -> StagePlan:
    rows = WebLikeRows()
    builder = SequenceBuilder(JointVocabulary(), {"en": [1] * 8, "zh": [2] * 8}, 151_643)
    recipe = load_recipe("mars_7b")
    assert (recipe.tokenization.size_px, recipe.tokenization.max_caption_ids) == (256, 512)
    stage = replace(recipe.stages[stage_number - 1], **({"attention": "sdpa"} | changes))  # which needs no blocks
    order = MixedOrder([cast(SampleOrder, rows)], [1.0], stage.global_batch_size)
    return RememberingPlan(stage, stage_number, 0, order, [rows], builder)
