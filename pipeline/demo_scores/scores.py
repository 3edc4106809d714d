"""The scores that only the demo's corpora have."""

from pipeline.config.recipe import Recipe
from pipeline.demo_scores.composition import score_composition
from pipeline.demo_scores.retrieval import score_drawings
from pipeline.evaluation.run_scores import Score


def demo_scores(recipe: Recipe) -> list[Score]:
    """Returns the scores that the recipe asks for, the longest first."""
    return [score_drawings, score_composition] if recipe.evaluation.composition else [score_drawings]
