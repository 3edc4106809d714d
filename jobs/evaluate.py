#!/usr/bin/env -S python -P
"""Scores a run from what `jobs/generate.py` made, and checks the exported model. Writes metrics.json."""

import jobs  # noqa: F401  # isort: skip

import json
import operator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch
from transformers import PreTrainedTokenizerFast

from jobs.common.cli import JobOptions, run_job
from jobs.generate import CAPTIONS_FILE, PICTURES_FILE
from pipeline.config.stage import LANGUAGES
from pipeline.demo.composition import score_composition
from pipeline.demo.drawings import scored_drawings, trained_drawings
from pipeline.errors import InputError
from pipeline.evaluation.documents import score_documents
from pipeline.evaluation.held_out import held_out_captions
from pipeline.evaluation.outside_scores import check_weights, clip_score, fid
from pipeline.evaluation.text_drift import text_drift
from pipeline.export.export import load_export, text_logits_max_abs_diff, visual_weights_moved
from pipeline.generation.documents import opener_share
from pipeline.model.loading import load_language_expert
from pipeline.pages.sheets import picture_sheet, spread, true_pictures
from pipeline.runs.attempt import ledger_attempt
from pipeline.runs.paths import RunPaths
from pipeline.runs.token_check import checked_fingerprint
from pipeline.runtime.placement import reserved
from pipeline.runtime.terminal import say
from pipeline.training.language_expert import TRAINING_FILE
from tokenization.config.pictures import Transform
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.pictures import load_picture
from tokenization.dtypes import fast_dtype
from tokenization.files.storage import open_storage
from tokenization.table.manifest import token_name
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint, TokenShard, common_fingerprint, list_token_shards
from tokenization.text_tokenizer import end_of_text_id
from tokenization.vqgan.image_tokenizer import ImageTokenizer
from tokenization.vqgan.quality import Quality, quality_of

VQ_SHEET_FILE = "vq_sheet.png"
DECODE_BATCH = 8
"""Pictures that a VQ-GAN decodes at once: with 32 of them a CPU's caches overflow, and each takes a third longer."""
SCORED_AT_ONCE = 32
HELD_OUT_TEXTS = 256
"""Captions that the perplexity is measured on."""


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `evaluate`."""

    fid_weights: str = ""
    """Local file of Inception weights, TorchScript or torch-fidelity's: adds the FID."""
    clip_weights: str = ""
    """Local folder of a CLIP model as transformers saves it: adds the CLIP score."""
    json: bool = False
    """Print the metrics as one JSON object, last."""


def main(options: Options) -> dict[str, Any]:
    """Scores generated pictures and captions, the VQ-GAN, and the export."""
    recipe, paths = options.resolve()
    check_weights(options.fid_weights, options.clip_weights)
    for name in (PICTURES_FILE, CAPTIONS_FILE):
        if not (paths.samples / name).exists():
            raise InputError(f"{str(paths.samples / name)!r} does not exist; run jobs/generate.py first")
    token_shards = list_token_shards(paths.tokens)
    checked_fingerprint(recipe, paths)
    cpus = recipe.scaling.num_cpus
    with ledger_attempt(paths, "evaluate", use_gpu=False) as ledger, reserved(cpus) as strategy:
        ledger.working.remote()
        task: Any = ray.remote(num_cpus=1, scheduling_strategy=strategy)
        # The longest first: what is left over at the end is then short.
        drawings = trained_drawings(recipe, paths)
        drawings = drawings[drawings["sample_id"].isin(scored_drawings(recipe, paths)["sample_id"])]
        scores = [task(score_generated).remote(paths, drawings)] if len(drawings) else []
        if recipe.evaluation.composition:
            scores.append(task(composition_of_generated).remote(paths))
        if options.fid_weights or options.clip_weights:
            outside = task(outside_scores)
            scores.append(outside.remote(paths, options.fid_weights, options.clip_weights))
        held_out = held_out_captions(recipe, paths, HELD_OUT_TEXTS)
        export = task(check_export).remote(paths, held_out)
        vq_of_shard = task(quality_of_tokens)
        shards = ray.get([vq_of_shard.remote(paths, shard) for shard in token_shards])
        metrics = reduce(operator.or_, ray.get([*scores, export]))
    manifest = json.loads(open_storage(paths.tokens).text(MANIFEST_FILE) or "")
    metrics = {
        "corpus_rows": manifest["rows_in"],
        "rejected_rows": manifest["rows_rejected"],
        "codes_in_use": manifest["codes_in_use"],
        "vq_psnr_db": reduce(operator.add, [quality for quality, _ in shards]).psnr_db,
        "language_expert_loss": language_expert_loss(paths),
    } | metrics
    picture_sheet(spread([cells for _, cells in shards if cells], recipe.evaluation.grid_drawings)).save(
        paths.samples / VQ_SHEET_FILE
    )
    paths.run.joinpath("metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False))
    if not (options.fid_weights and options.clip_weights):
        say("evaluate: without --fid-weights there is no FID, without --clip-weights no CLIP score")
    for name, value in metrics.items():
        say(f"evaluate: {name} = {value:.4g}" if isinstance(value, float) else f"evaluate: {name} = {value}")
    return metrics


def quality_of_tokens(paths: RunPaths, shard: TokenShard) -> tuple[Quality, list[tuple[str, np.ndarray]]]:
    """What is left of a shard's pictures in their stored codes; and its first picture for the sheet, with what is left
    of it in its stored codes and in those of twice the size."""
    fingerprint = common_fingerprint([shard])
    vqgan = stored_vqgan(paths, fingerprint)
    table = shard.read(["sample_id", "codes"])
    stored = dict(zip(table["sample_id"].to_pylist(), table["codes"].to_pylist(), strict=True))
    corpus = Corpus(paths.corpus_source)
    name = next(name for name in corpus.shards if token_name(name) == shard.name)
    transform = Transform(fingerprint.transform["size_px"])
    twice = Transform(2 * transform.size_px)
    pictures, codes = [], []
    shown: list[tuple[str, np.ndarray]] = []
    for sample in corpus.read(name):
        line = stored.get(f"{name}/{sample.key}")
        if line is not None and sample.picture:
            pictures.append(load_picture(sample.picture, transform).pixels)
            codes.append(np.asarray(line))
            if not shown:
                drawing = load_picture(sample.picture, twice).pixels
                shown = [("drawing", drawing)]
                for kept in (codes[0][None], vqgan.encode(drawing[None])):
                    shown.append((f"{kept.shape[1]} codes", vqgan.decode(kept)[0]))
    return quality_of(vqgan, pictures, codes), shown


def stored_vqgan(paths: RunPaths, fingerprint: Fingerprint) -> ImageTokenizer:
    """The VQ-GAN, computing as it did when the tokens were made."""
    return ImageTokenizer(paths.vqgan, dtype=getattr(torch, fingerprint.encoder_dtype))


def score_generated(paths: RunPaths, drawings: pd.DataFrame) -> dict[str, Any]:
    """Retrieval of generated pictures, base and high resolution, and exact match of captions, by language.

    A picture is retrieved where its pixels are nearer (squared distance) to its own drawing, decoded from the
    stored codes, than to any other trained one. A caption counts where it is its drawing's name to the letter.
    """
    vqgan = stored_vqgan(paths, common_fingerprint(list_token_shards(paths.tokens)))
    pictures = pd.read_parquet(paths.samples / PICTURES_FILE)
    captions = pd.read_parquet(paths.samples / CAPTIONS_FILE)
    scores: dict[str, Any] = {"trained_drawings": drawings["sample_id"].nunique()}
    scores |= retrieval(vqgan, drawings, pictures, "codes", "t2i_retrieval")
    for language in LANGUAGES:
        written = captions[(captions["language"] == language) & captions["sample_id"].isin(drawings["sample_id"])]
        scores[f"caption_exact_match_{language}"] = float((written["caption"] == written["true_caption"]).mean())
    if paths.recipe.evaluation.documents:
        scores |= score_documents(paths.recipe, paths, vqgan)
    if "high_codes" in pictures:
        scores |= retrieval(vqgan, drawings, pictures, "high_codes", "high_res_retrieval")
    return scores


def retrieval(
    vqgan: ImageTokenizer, drawings: pd.DataFrame, pictures: pd.DataFrame, column: str, name: str
) -> dict[str, float]:
    """For each language the share of pictures that are nearest to their own drawing, by the codes in `column`."""
    unique = drawings.drop_duplicates("sample_id").dropna(subset=[column])
    sample_ids = unique["sample_id"].to_numpy()
    scored = pictures[pictures["sample_id"].isin(sample_ids)]
    pixels = _decode(vqgan, [*unique[column], *scored[column]])
    truth, drawn = pixels[: len(unique)].astype(np.float32), pixels[len(unique) :]
    squares, nearest = np.einsum("ij,ij->i", truth, truth), []
    for start in range(0, len(drawn), SCORED_AT_ONCE):
        # A picture's own square is the same for all drawings.
        distance = squares - 2 * drawn[start : start + SCORED_AT_ONCE].astype(np.float32) @ truth.T
        nearest.append(distance.argmin(1))
    right = sample_ids[np.concatenate(nearest)] == scored["sample_id"].to_numpy()
    return {f"{name}_{language}": float(right[scored["language"] == language].mean()) for language in LANGUAGES}


def composition_of_generated(paths: RunPaths) -> dict[str, float]:
    """Whether the generated pictures have the skin tones asked for; see `pipeline.demo.composition`."""
    vqgan = stored_vqgan(paths, common_fingerprint(list_token_shards(paths.tokens)))
    return score_composition(paths, vqgan, pd.read_parquet(paths.samples / PICTURES_FILE))


def outside_scores(paths: RunPaths, fid_weights: str, clip_weights: str) -> dict[str, float]:
    """FID of all generated pictures against their drawings, and CLIP score by language, where there are weights."""
    fingerprint = common_fingerprint(list_token_shards(paths.tokens))
    vqgan = stored_vqgan(paths, fingerprint)
    pictures = pd.read_parquet(paths.samples / PICTURES_FILE)
    size_px = fingerprint.transform["size_px"]
    generated = _decode(vqgan, pictures["codes"].to_list()).reshape(-1, size_px, size_px, 3)
    scores: dict[str, float] = {}
    if fid_weights:
        truth = true_pictures(paths, pictures["sample_id"].unique().tolist(), size_px)
        scores |= {"fid": fid(fid_weights, np.stack(list(truth.values())), generated), "fid_pictures": len(generated)}
    if clip_weights:
        for language, rows in pictures.reset_index(drop=True).groupby("language"):
            score = clip_score(clip_weights, generated[rows.index], rows["prompt"].to_list())
            scores[f"clip_score_{language}"] = score
    return scores


def check_export(paths: RunPaths, held_out: list[list[int]]) -> dict[str, Any]:
    """Loads the export in this fresh process and compares its text with the base's own class."""
    model = load_export(paths.export, fast_dtype("cpu"))
    captions = list_token_shards(paths.tokens)[0].read(["captions"])["captions"].to_pylist()
    texts = [caption["ids"] for row in captions[:16] for caption in row]
    perplexities: dict[str, Any] = {}
    if held_out:
        base = load_language_expert(paths.base, model.dtype).eval()
        end_id = end_of_text_id(PreTrainedTokenizerFast.from_pretrained(paths.export))
        rows = model.config.text_vocab_size
        drift = text_drift(lambda ids: model(ids).logits[..., :rows], lambda ids: base(ids).logits, held_out, end_id)
        perplexities = {"text_perplexity": drift.perplexity, "base_text_perplexity": drift.base_perplexity}
        # After its last word a caption may well be followed by a picture.
        beginnings = [ids[:-1] for ids in held_out if len(ids) > 1]
        if beginnings:
            share = opener_share(model, beginnings)
            perplexities |= {"openers_in_text": share.greedy, "openers_in_text_probability": share.probability}
    return perplexities | {
        "held_out_texts": len(held_out),
        "text_logits_max_abs_diff": text_logits_max_abs_diff(model, paths.base, texts),
        "visual_weights_moved": visual_weights_moved(model, paths.base),
    }


def language_expert_loss(paths: RunPaths) -> float | None:
    """The last loss of the demo's language expert; None where the expert was brought along."""
    record = paths.language_expert / TRAINING_FILE
    return json.loads(record.read_text())["loss"] if record.exists() else None


def _decode(vqgan: ImageTokenizer, codes: list) -> np.ndarray:
    """Pixels uint8 [rows, pixels] of codes. Pictures that are alike, as those known by heart, are decoded once."""
    grid, places = np.unique(np.stack([np.asarray(line) for line in codes]), axis=0, return_inverse=True)
    pixels = [vqgan.decode(grid[start : start + DECODE_BATCH]) for start in range(0, len(grid), DECODE_BATCH)]
    return np.concatenate(pixels).reshape(len(grid), -1)[places.ravel()]


if __name__ == "__main__":
    run_job(Options, main, __doc__)
