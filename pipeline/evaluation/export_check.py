"""Checks an exported model: it loads, its text output still equals the language expert's, and openers are in place."""

from typing import Any

from transformers import PreTrainedTokenizerFast

from pipeline.evaluation.openers import score_openers
from pipeline.evaluation.text_drift import text_drift
from pipeline.export.export import load_export, text_logits_max_abs_diff, visual_weights_moved
from pipeline.generation.documents import opener_share
from pipeline.model.loading import load_language_expert
from pipeline.runs.paths import RunPaths
from tokenization.dtypes import fast_dtype
from tokenization.table.token_table import list_token_shards
from tokenization.text_tokenizer import end_of_text_id


def check_export(paths: RunPaths, held_out: list[list[int]]) -> dict[str, Any]:
    """Loads the export in this fresh process, and compares its text with that of the language expert's own class.

    Args:
        paths: paths of the run.
        held_out: ids of captions outside all training data; perplexity is measured on them.
    """
    model = load_export(paths.export, fast_dtype("cpu"))
    captions = list_token_shards(paths.tokens)[0].read(["captions"])["captions"].to_pylist()
    texts = [caption["ids"] for row in captions[:16] for caption in row]
    scores: dict[str, Any] = {}
    if held_out:
        language_expert = load_language_expert(paths.initial_model, model.dtype).eval()
        end_id = end_of_text_id(PreTrainedTokenizerFast.from_pretrained(paths.export))
        rows = model.config.text_vocab_size
        drift = text_drift(
            lambda ids: model(ids).logits[..., :rows], lambda ids: language_expert(ids).logits, held_out, end_id
        )
        scores = {"text_perplexity": drift.perplexity, "base_text_perplexity": drift.base_perplexity}
        # A picture may well follow the last word of a caption.
        beginnings = [ids[:-1] for ids in held_out if len(ids) > 1]
        if beginnings:
            share = opener_share(model, beginnings)
            scores |= {"openers_in_text": share.greedy, "openers_in_text_probability": share.probability}
    scores |= score_openers(model, paths)
    return scores | {
        "held_out_texts": len(held_out),
        "text_logits_max_abs_diff": text_logits_max_abs_diff(model, paths.initial_model, texts),
        "visual_weights_moved": visual_weights_moved(model, paths.initial_model),
    }
