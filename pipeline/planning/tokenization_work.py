"""The expected work of tokenization, from a recipe's settings alone: pictures, and the encoder's FLOP."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.recipe import Recipe
from pipeline.planning.flops import encoder_flop_of
from pipeline.planning.recipe_plan import PlannedStage


@dataclass(frozen=True)
class EncodedPictures:
    """Pictures that the VQ-GAN encodes at one size.

    Attributes:
        name: empty for the base resolution, ` hr` for the high one.
        count: number of pictures.
        size_px: their height and width.
        flop: the encoder's FLOP for one.
        source: where the count comes from.
    """

    name: str
    count: int
    size_px: int
    flop: float
    source: str


def tokenization_work(recipe: Recipe, stages: Sequence[PlannedStage]) -> list[EncodedPictures]:
    """Returns the pictures of each size: those that the recipe states, or each sample of the largest stage once."""
    high = [stage.work.samples for stage in stages if stage.stage.needs_high_codes]
    low_source, high_source = "assumed: each sample of the largest stage once", "assumed: stage's samples, once"
    found = (
        ("", recipe.plan.pictures, [stage.work.samples for stage in stages], recipe.tokenization.size_px, low_source),
        (" hr", recipe.plan.pictures_hr, high, recipe.tokenization.size_hr_px, high_source),
    )
    return [
        EncodedPictures(
            name,
            count or max(samples, default=0),
            size_px,
            encoder_flop_of(recipe.vqgan, size_px),
            "recipe: plan.pictures" if count and not name else "recipe: plan.pictures_hr" if count else source,
        )
        for name, count, samples, size_px, source in found
        if size_px and (count or max(samples, default=0))
    ]
