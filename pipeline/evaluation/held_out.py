"""Captions that no stage of a run trained on."""

from pipeline.config.recipe import Recipe
from pipeline.data.row_selection import RowSelection
from pipeline.evaluation.text_drift import held_out_texts
from pipeline.runs.paths import RunPaths


def held_out_captions(recipe: Recipe, paths: RunPaths, count: int) -> list[list[int]]:
    """Returns the ids of up to `count` captions that no stage trained on; none if the stages trained on every row.

    A language expert that the run trained itself knows only the words of its training texts. For such a run, captions
    with other words are left out, as are the captions that it trained on.
    """
    name = recipe.first_corpus
    sources = [stage.sources[name] for stage in recipe.stages if name in stage.sources]
    trained = [RowSelection(paths.tokens, each.where, each.side_tables, held_out=each.held_out) for each in sources]
    if recipe.language_expert_folder:
        return held_out_texts(trained, count)
    own = RowSelection(paths.tokens, recipe.language_expert.where)
    return held_out_texts([*trained, own], count, read=own)
