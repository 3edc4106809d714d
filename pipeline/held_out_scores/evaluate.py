"""Scores a run on held-out rows: draws them, generates what the sheet and the outside scores need, writes metrics."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import ray

from pipeline.config.recipe import Recipe, sha256_of
from pipeline.data.rows import Row
from pipeline.evaluation.outside_scores import OutsideWeights, check_weights
from pipeline.evaluation.run_scores import METRICS_FILE
from pipeline.evaluation.score_parts import PARTS_FOLDER, DrawnPicture, outside_scores
from pipeline.export.export import exported_from
from pipeline.generation.documents import DocumentLimits
from pipeline.generation.sampling import Sampling
from pipeline.held_out_scores.kept import NUMBER, KeptResults
from pipeline.held_out_scores.likelihood import likelihood_scores
from pipeline.held_out_scores.rows import draw_rows
from pipeline.held_out_scores.verdict import verdicts
from pipeline.ledger.account import Counts
from pipeline.pages.sheets import picture_sheet, spread
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
KEPT_FOLDER = "held_out_parts"
"""Folder in `RunPaths.samples` with what was generated so far."""
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
    chosen = prompted if outside.any else spread(prompted, recipe.evaluation.grid_pictures)
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
        kept = KeptResults(paths.samples / KEPT_FOLDER, _key_of(paths, fingerprint, chosen, sampling))
        results = _generated(recipe, paths, fingerprint, chosen, sampling, kept, ledger)
        ledger.add.remote(Counts(samples=len(results)))
        scored_outside = _outside(recipe, paths, fingerprint, chosen, results, outside)
    metrics = {
        "kind": "held_out" if drawn.held_out else "trained",
        "checkpoint": exported_from(paths.export),
        "rows": len(drawn.rows),
        "rows_drawn_from": drawn.of,
        "seed": seed,
        "sampling": asdict(sampling),
    } | figures
    metrics |= scored_outside
    _write_sheet(recipe, paths, chosen, results, ImageTokenizer(paths.vqgan))
    text = json.dumps(metrics, indent=2, ensure_ascii=False)
    file = METRICS_FILE if recipe.corpus.path else DEMO_FILE
    write_atomically(paths.run / file, lambda partial: partial.write_text(text))
    for folder in (KEPT_FOLDER, PARTS_FOLDER):  # all that they were kept for is written
        shutil.rmtree(paths.samples / folder, ignore_errors=True)
    _say_figures(metrics)
    say(f"evaluate: captions, true pictures and results are in {paths.samples / SHEET_FILE}")
    return metrics


def _say_figures(metrics: dict[str, Any]) -> None:
    for name, value in metrics.items():
        say(f"evaluate: {name} = {value:.4g}" if isinstance(value, float) else f"evaluate: {name} = {value}")
    for line in verdicts(metrics):
        say(f"evaluate: {line}")


def _sampling(recipe: Recipe, seed: int) -> Sampling:
    usual = recipe.evaluation
    return Sampling(usual.temperature, usual.top_k, guidance_scale=usual.guidance_scale, seed=seed)


def _key_of(paths: RunPaths, fingerprint: Fingerprint, chosen: Sequence[Prompted], sampling: Sampling) -> str:
    """Stands for all that decides what is generated."""
    rows = [(row.sample_id, row.codes.tolist(), text, language) for row, text, language in chosen]
    return sha256_of(exported_from(paths.export), fingerprint, rows, sampling)[:16]


def _generated(
    recipe: Recipe,
    paths: RunPaths,
    fingerprint: Fingerprint,
    chosen: Sequence[Prompted],
    sampling: Sampling,
    kept: KeptResults,
    ledger: Any,
) -> list[dict[str, Any]]:
    """A picture of each caption and a caption of each row's codes, in the order of `chosen`; what an earlier command
    has made of them is not made again."""
    limits = DocumentLimits(fingerprint.num_codes, 0, 1)
    request = GenerationRequest(recipe, paths, fingerprint, "picture", sampling, None, limits)
    batch_size = min(PROMPT_BATCH, recipe.evaluation.batch_size, len(chosen))
    rows = [
        {"prompt": text, "language": language, "codes": row.codes, "seed": sampling.seed + number, NUMBER: number}
        for number, (row, text, language) in enumerate(chosen)
    ]
    done = kept.read()
    missing = [row for row in rows if row[NUMBER] not in done]
    say(f"evaluate: {len(rows)} pictures and captions to generate, {len(done)} are there already")
    if missing:
        config = generator_config(request, batch_size, with_vqgan=False)
        made = kept.keeping(run_generators(config, missing, recipe, ledger))
        done |= {int(result[NUMBER]): result for result in made}
    return [done[number] for number in range(len(rows))]


def _outside(
    recipe: Recipe,
    paths: RunPaths,
    fingerprint: Fingerprint,
    chosen: Sequence[Prompted],
    results: Sequence[dict[str, Any]],
    outside: OutsideWeights,
) -> dict[str, float]:
    """FID and CLIP score of the pictures, each if its weights are given, in Ray tasks of one CPU or of one GPU."""
    pictures = [
        DrawnPicture(row.sample_id, text, language, np.asarray(result["drawn_codes"]))
        for (row, text, language), result in zip(chosen, results, strict=True)
    ]
    scaling, size_px = recipe.scaling, fingerprint.transform["size_px"]
    gpus, device = int(scaling.use_gpu), "cuda" if scaling.use_gpu else "cpu"
    if not outside.any:
        return outside_scores(paths, pictures, outside, size_px, ray.remote)
    with reserved(scaling.num_workers if gpus else scaling.num_cpus, gpus) as strategy:
        task: Any = ray.remote(num_cpus=1, num_gpus=gpus, scheduling_strategy=strategy)
        return outside_scores(paths, pictures, outside, size_px, task, device)


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
