"""Text that no stage of a run trained on."""

from jobs.common.recipe import Recipe
from jobs.common.run_paths import RunPaths
from pipeline.preservation import held_out_texts


def held_out_captions(recipe: Recipe, paths: RunPaths, count: int) -> list[list[int]]:
    """The ids of up to `count` captions of the run's tokens that neither a stage nor the demo's own language expert
    trained on; none where they trained on every row."""
    trained = [stage.where for stage in recipe.stages]
    if not recipe.language_expert_folder:
        trained.append(recipe.language_expert.where)
    return held_out_texts(paths.tokens, trained, count)
