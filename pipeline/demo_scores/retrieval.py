"""Tests if the model memorised its drawings: compares generated pictures and captions with the training data."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.config.stage import LANGUAGES
from pipeline.evaluation.documents import score_documents
from pipeline.evaluation.samples import CAPTIONS_FILE, PICTURES_FILE, scored_samples, trained_samples
from pipeline.evaluation.token_quality import decode_distinct, vqgan_of_tokens
from pipeline.runs.paths import RunPaths
from tokenization.vqgan.image_tokenizer import ImageTokenizer

COMPARED_AT_ONCE = 32
"""Number of pictures whose distances to all drawings are in memory at once."""


def score_drawings(paths: RunPaths) -> dict[str, Any]:
    """Returns picture retrieval, base and high resolution, and exact match of captions, by language.

    Only the scored drawings that the last stage trained on count; without any, the result is empty. A picture is
    retrieved if its pixels are nearer (squared distance) to its own drawing, decoded from the stored codes, than to any
    other trained one. A caption counts if it equals its drawing's name exactly.
    """
    recipe = paths.recipe
    trained, scored = trained_samples(recipe, paths), scored_samples(recipe, paths)
    drawings = trained[trained["sample_id"].isin(scored["sample_id"])]
    if not len(drawings):
        return {}
    vqgan = vqgan_of_tokens(paths)
    pictures = pd.read_parquet(paths.samples / PICTURES_FILE)
    captions = pd.read_parquet(paths.samples / CAPTIONS_FILE)
    scores: dict[str, Any] = {"trained_drawings": drawings["sample_id"].nunique()}
    scores |= retrieval(vqgan, drawings, pictures, "codes", "t2i_retrieval")
    for language in LANGUAGES:
        written = captions[(captions["language"] == language) & captions["sample_id"].isin(drawings["sample_id"])]
        scores[f"caption_exact_match_{language}"] = float((written["caption"] == written["true_caption"]).mean())
    if recipe.evaluation.documents:
        scores |= score_documents(recipe, paths, vqgan)
    if "high_codes" in pictures:
        scores |= retrieval(vqgan, drawings, pictures, "high_codes", "high_res_retrieval")
    return scores


def retrieval(
    vqgan: ImageTokenizer, drawings: pd.DataFrame, pictures: pd.DataFrame, column: str, name: str
) -> dict[str, float]:
    """Returns by language the share of pictures that are nearest to their own drawing, using the codes in `column`."""
    unique = drawings.drop_duplicates("sample_id").dropna(subset=[column])
    sample_ids = unique["sample_id"].to_numpy()
    scored = pictures[pictures["sample_id"].isin(sample_ids)]
    pixels = decode_distinct(vqgan, [*unique[column], *scored[column]])
    pixels = pixels.reshape(len(pixels), -1)
    truth, drawn = pixels[: len(unique)].astype(np.float32), pixels[len(unique) :]
    squares, nearest = np.einsum("ij,ij->i", truth, truth), []
    for start in range(0, len(drawn), COMPARED_AT_ONCE):
        # The squared norm of the picture itself is the same for all drawings.
        distance = squares - 2 * drawn[start : start + COMPARED_AT_ONCE].astype(np.float32) @ truth.T
        nearest.append(distance.argmin(1))
    right = sample_ids[np.concatenate(nearest)] == scored["sample_id"].to_numpy()
    return {f"{name}_{language}": float(right[scored["language"] == language].mean()) for language in LANGUAGES}
