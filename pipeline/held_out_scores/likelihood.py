"""The scores that need the exported model and no generated picture; computed in one Ray task."""

import torch
from transformers import PreTrainedTokenizerFast

from pipeline.config.recipe import Recipe
from pipeline.config.stage import INSTRUCTIONS
from pipeline.data.sequences import SequenceBuilder
from pipeline.export.export import load_export
from pipeline.held_out_scores.losses import bits_by_task_and_language, frequency_bits
from pipeline.held_out_scores.retrieval import retrieval
from pipeline.held_out_scores.rows import DrawnRows
from pipeline.runs.paths import RunPaths
from pipeline.training.objective import Objective
from tokenization.dtypes import fast_dtype
from tokenization.text_tokenizer import end_of_text_id


def likelihood_scores(recipe: Recipe, paths: RunPaths, drawn: DrawnRows, retrieval_rows: int) -> dict[str, float]:
    """Returns bits by task and language, and retrieval by language, as plain figures by name."""
    device = torch.device("cuda" if recipe.scaling.use_gpu else "cpu")
    model = load_export(paths.export, fast_dtype(device)).to(device)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(paths.export)
    instructions = {language: tokenizer(text)["input_ids"] for language, text in INSTRUCTIONS.items()}
    builder = SequenceBuilder(model.config.vocabulary, instructions, end_of_text_id(tokenizer))
    objective = Objective(model, recipe.stages[-1].normalisation)
    figures = bits_by_task_and_language(objective, recipe, drawn.rows, builder)
    figures["frequencies/bits_a_code"] = frequency_bits(drawn.rows, drawn.code_counts)
    for language in INSTRUCTIONS:
        if found := retrieval(objective, drawn.rows, language, retrieval_rows, builder):
            figures[f"retrieval/{language}/pairs"] = found.pairs
            figures[f"retrieval/{language}/picture_of_caption"] = found.picture_of_caption
            figures[f"retrieval/{language}/caption_of_picture"] = found.caption_of_picture
    return figures
