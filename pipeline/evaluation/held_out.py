"""Captions that no stage of a run trained on."""

from pipeline.config.recipe import Recipe
from pipeline.evaluation.text_drift import held_out_texts
from pipeline.runs.paths import RunPaths


def held_out_captions(recipe: Recipe, paths: RunPaths, count: int) -> list[list[int]]:
    """Returns the ids of up to `count` captions that no stage trained on; none if the stages trained on every row.

    A language expert that the run trained itself knows only the words of its training texts. For such a run, captions
    with other words are left out, as are the captions that it trained on.
    """
    name = recipe.first_corpus
    trained, own = [stage.sources[name].where for stage in recipe.stages if name in stage.sources], None
    if not recipe.language_expert_folder:
        own = recipe.language_expert.where
        trained.append(own)
    return held_out_texts(paths.tokens, trained, count, read=own)
