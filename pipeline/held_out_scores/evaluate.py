"""Scores a run on held-out rows: draws them, generates what the sheet and the outside scores need, writes metrics."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import ray

from pipeline.config.recipe import Recipe
from pipeline.data.rows import Row
from pipeline.evaluation.outside_scores import OutsideWeights, check_weights, clip_score, fid
from pipeline.evaluation.run_scores import METRICS_FILE
from pipeline.export.export import exported_from
from pipeline.generation.documents import DocumentLimits
from pipeline.generation.sampling import Sampling
from pipeline.held_out_scores.likelihood import likelihood_scores
from pipeline.held_out_scores.rows import draw_rows
from pipeline.ledger.account import Counts
from pipeline.pages.sheets import picture_sheet, spread, true_pictures
from pipeline.requests.defaults import PROMPT_BATCH
from pipeline.requests.generators import generator_config, make_export, run_generators
from pipeline.requests.request import GenerationRequest
from pipeline.runs.attempt import ledger_attempt
from pipeline.runs.paths import RunPaths
from pipeline.runs.token_check import checked_fingerprint
from pipeline.runtime.placement import reserved
from pipeline.runtime.terminal import say
from tokenization.files.atomic_writing import write_atomically, write_png
from tokenization.table.token_table import Fingerprint
from tokenization.vqgan.image_tokenizer import ImageTokenizer

SHEET_FILE = "held_out.png"
"""File in `RunPaths.samples`: for some held-out rows the caption, the picture from its stored codes, and the result."""
DEMO_FILE = "held_out.json"
"""File in the folder of a run that has scores of its own in `METRICS_FILE`, as the demo."""
ROWS = 256
"""Rows that are drawn where the user names no number."""

Prompted = tuple[Row, str, str]
"""A row, one of its captions, and that one's language."""


def evaluate_held_out(
    recipe: Recipe, paths: RunPaths, count: int, seed: int, retrieval_rows: int, outside: OutsideWeights
) -> dict[str, Any]:
    """Scores the last stage on `count` held-out rows. Writes `METRICS_FILE`, or `DEMO_FILE`, and `SHEET_FILE`.

    Pictures are generated for the sheet alone, or for all drawn rows if there are weights for an outside score.

    Args:
        recipe, paths: recipe and paths of the run.
        count: rows to draw.
        seed: seed of the rows and of the pictures.
        retrieval_rows: pictures and captions of the retrieval, at most.
        outside: weights of the FID and the CLIP score.

    Raises:
        InputError: the stage is not finished, or inputs are missing or do not fit.
    """
    check_weights(outside)
    fingerprint = checked_fingerprint(recipe, paths)
    make_export(recipe, paths, fingerprint)
    drawn = draw_rows(recipe, paths, count, seed, fingerprint.codebook_size)
    if not drawn.held_out:
        say("evaluate: the recipe holds no rows out, so these are trained ones; give its sources a held_out query")
    say(f"evaluate: {len(drawn.rows)} of {drawn.of} rows, drawn with seed {seed}")
    prompted = drawn.prompts()
    chosen = prompted if outside.fid or outside.clip else spread(prompted, recipe.evaluation.grid_pictures)
    use_gpu = recipe.scaling.use_gpu
    with ledger_attempt(paths, "evaluate", use_gpu) as ledger:
        ledger.working.remote()
        with reserved(recipe.scaling.cpus_per_worker, int(use_gpu), together=True) as strategy:
            task: Any = ray.remote(
                num_cpus=recipe.scaling.cpus_per_worker, num_gpus=int(use_gpu), scheduling_strategy=strategy
            )
            scored = task(likelihood_scores).remote(recipe, paths, drawn, retrieval_rows)
            figures: dict[str, Any] = ray.get(scored)
        sampling = _sampling(recipe, seed)
        results = _generated(recipe, paths, fingerprint, chosen, sampling, ledger)
        ledger.add.remote(Counts(samples=len(results)))
    metrics = {
        "kind": "held_out" if drawn.held_out else "trained",
        "checkpoint": exported_from(paths.export),
        "rows": len(drawn.rows),
        "rows_drawn_from": drawn.of,
        "seed": seed,
        "sampling": asdict(sampling),
    } | figures
    vqgan = ImageTokenizer(paths.vqgan)
    _write_sheet(recipe, paths, chosen, results, vqgan)
    metrics |= scores_with_weights(paths, fingerprint, chosen, results, vqgan, outside)
    text = json.dumps(metrics, indent=2, ensure_ascii=False)
    file = METRICS_FILE if recipe.corpus.path else DEMO_FILE
    write_atomically(paths.run / file, lambda partial: partial.write_text(text))
    for name, value in metrics.items():
        say(f"evaluate: {name} = {value:.4g}" if isinstance(value, float) else f"evaluate: {name} = {value}")
    say(f"evaluate: captions, true pictures and results are in {paths.samples / SHEET_FILE}")
    return metrics


def _sampling(recipe: Recipe, seed: int) -> Sampling:
    usual = recipe.evaluation
    return Sampling(usual.temperature, usual.top_k, guidance_scale=usual.guidance_scale, seed=seed)


def _generated(
    recipe: Recipe,
    paths: RunPaths,
    fingerprint: Fingerprint,
    chosen: Sequence[Prompted],
    sampling: Sampling,
    ledger: Any,
) -> list[dict[str, Any]]:
    """A picture of each caption and a caption of each row's codes, in the order of `chosen`."""
    limits = DocumentLimits(fingerprint.num_codes, 0, 1)
    request = GenerationRequest(recipe, paths, fingerprint, "picture", sampling, None, limits)
    batch_size = min(PROMPT_BATCH, recipe.evaluation.batch_size, len(chosen))
    rows = [
        {"prompt": text, "language": language, "codes": row.codes, "seed": sampling.seed + number}
        for number, (row, text, language) in enumerate(chosen)
    ]
    made = run_generators(generator_config(request, batch_size, with_vqgan=False), rows, recipe, ledger)
    return sorted(made, key=lambda result: result["row_number"])


def _write_sheet(
    recipe: Recipe,
    paths: RunPaths,
    chosen: Sequence[Prompted],
    results: Sequence[dict[str, Any]],
    vqgan: ImageTokenizer,
) -> None:
    """A column for each of some rows: its caption over its own picture, and the model's caption over its picture."""
    columns = []
    for (row, text, _), result in spread([*zip(chosen, results, strict=True)], recipe.evaluation.grid_pictures):
        true, drawn = vqgan.decode_all(np.stack([row.codes, result["drawn_codes"]]).astype(np.int64))
        columns.append([(text, true), ("drawn from it", drawn), (f"→ {result['caption']}", true)])
    footer = f"held-out rows of {recipe.corpus.path or recipe.name}; their own pictures are shown from their codes"
    write_png(paths.samples / SHEET_FILE, picture_sheet(columns, footer))


def scores_with_weights(
    paths: RunPaths,
    fingerprint: Fingerprint,
    chosen: Sequence[Prompted],
    results: Sequence[dict[str, Any]],
    vqgan: ImageTokenizer,
    outside: OutsideWeights,
) -> dict[str, float]:
    """FID and CLIP score, each if its weights are given; the corpus's own pictures are read from its shards."""
    if not (outside.fid or outside.clip):
        say("evaluate: without --fid-weights there is no FID, without --clip-weights no CLIP score")
        return {}
    drawn = vqgan.decode_all(np.stack([result["drawn_codes"] for result in results]))
    scores: dict[str, float] = {}
    if outside.fid:
        truth = true_pictures(paths, [row.sample_id for row, _, _ in chosen], fingerprint.transform["size_px"])
        scores |= {"fid": fid(outside.fid, np.stack([*truth.values()]), drawn), "fid_pictures": len(drawn)}
    for language in sorted({language for _, _, language in chosen}) if outside.clip else ():
        of_language = [number for number, (_, _, each) in enumerate(chosen) if each == language]
        texts = [chosen[number][1] for number in of_language]
        scores[f"clip_score_{language}"] = clip_score(outside.clip, drawn[of_language], texts)
    return scores
