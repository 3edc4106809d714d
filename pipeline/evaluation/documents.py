"""The illustrated documents that a run trained on: first lines are prompts, and generated documents are scored."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config.recipe import Recipe
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.data.token_reader import TokenReader
from pipeline.errors import InputError
from pipeline.pages.prompt_results import INDEX_PARQUET
from pipeline.runs.paths import RunPaths
from tokenization.text_tokenizer import load_text_tokenizer
from tokenization.vqgan.image_tokenizer import ImageTokenizer


@dataclass(frozen=True)
class TrueDocument:
    """A document of the corpus: its first line, its text, the number of text ids, and its pictures' codes."""

    title: str
    text: str
    num_ids: int
    pictures: list[np.ndarray]


def true_documents(recipe: Recipe, paths: RunPaths, corpus: str) -> list[TrueDocument]:
    """Returns the documents of one of the recipe's corpora, in order."""
    tokens = paths.tokens_of(corpus)
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    index = build_row_index(RowSelection(tokens))
    reader, found = TokenReader(tokens, index, held_shards=1), []
    for shard, count in enumerate(index.counts):
        for row_number in range(count):
            parts = reader.row(shard, row_number).document or []
            ids = [number for part in parts if isinstance(part, list) for number in part]
            text = tokenizer.decode(ids)
            pictures = [part for part in parts if isinstance(part, np.ndarray)]
            found.append(TrueDocument(text.split("\n")[0], text, len(ids), pictures))
    return found


def newest_documents(paths: RunPaths) -> Path | None:
    """Returns the folder of the newest generated documents."""
    return max(paths.documents.glob("[0-9]*"), default=None)


def score_documents(recipe: Recipe, paths: RunPaths, vqgan: ImageTokenizer) -> dict[str, float]:
    """Measures how well the model reproduces its documents from their first lines.

    `documents_text_exact` is the share of documents whose text, without pictures, is exactly right.
    `documents_retrieval` is the share of their pictures for which the drawn picture is nearer (squared distance of
    pixels) to the right one, decoded from the stored codes, than to any other picture of the corpus.

    Raises:
        InputError: no documents were generated.
    """
    folder = newest_documents(paths)
    if folder is None:
        raise InputError(f"{str(paths.documents)!r} has no generated documents; run jobs/generate.py first")
    made = pd.read_parquet(folder / INDEX_PARQUET)
    true = true_documents(recipe, paths, recipe.evaluation.documents)
    by_title = {prompt: json.loads(text) for prompt, text in zip(made["prompt"], made["segments"], strict=True)}
    stored = np.unique(np.stack([codes for document in true for codes in document.pictures]), axis=0)
    pixels = _decode(vqgan, stored)
    exact, right, wanted = 0, 0, 0
    for document in true:
        segments = by_title[document.title]
        exact += document.title + "".join(segment.get("text", "") for segment in segments) == document.text
        drawn = [segment["codes"] for segment in segments if "codes" in segment][: len(document.pictures)]
        wanted += len(document.pictures)
        if drawn:
            distance = (pixels**2).sum(1) - 2 * _decode(vqgan, np.asarray(drawn)) @ pixels.T
            nearest = stored[distance.argmin(1)]
            right += sum((a == b).all() for a, b in zip(nearest, document.pictures, strict=False))
    return {
        "documents": len(true),
        "documents_text_exact": exact / len(true),
        "documents_retrieval": float(right / wanted),
    }


def _decode(vqgan: ImageTokenizer, codes_BN: np.ndarray) -> np.ndarray:
    """Returns decoded pixels, float32 [B, pixels]."""
    return vqgan.decode_all(codes_BN).reshape(len(codes_BN), -1).astype(np.float32)
