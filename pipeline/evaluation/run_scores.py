"""Scores a run in Ray tasks: its tokens, its generated results, its export."""

import json
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import ray

from pipeline.config.recipe import Recipe
from pipeline.errors import InputError
from pipeline.evaluation.export_check import check_export
from pipeline.evaluation.held_out import held_out_captions
from pipeline.evaluation.outside_scores import OutsideWeights, check_weights
from pipeline.evaluation.samples import CAPTIONS_FILE, PICTURES_FILE, VQ_SHEET_FILE
from pipeline.evaluation.score_parts import generated_pictures, outside_scores
from pipeline.evaluation.token_quality import quality_of_tokens
from pipeline.pages.sheets import picture_sheet, spread
from pipeline.runs.attempt import ledger_attempt
from pipeline.runs.paths import RunPaths
from pipeline.runs.token_check import checked_fingerprint
from pipeline.runtime.placement import reserved
from pipeline.runtime.terminal import say
from pipeline.training.language_expert import TRAINING_FILE
from tokenization.files.atomic_writing import write_atomically, write_png
from tokenization.files.storage import open_storage
from tokenization.table.token_table import MANIFEST_FILE, list_token_shards

METRICS_FILE = "metrics.json"
"""File in the run's folder."""
HELD_OUT_TEXTS = 256
"""Number of captions that the perplexity is measured on."""

Score = Callable[[RunPaths], dict[str, Any]]
"""Returns metrics of a run by name; runs in one task on one CPU."""


def evaluate_run(
    recipe: Recipe, paths: RunPaths, own_scores: Sequence[Score], outside: OutsideWeights, footer: str
) -> dict[str, Any]:
    """Scores generated pictures and captions, the VQ-GAN and the export. Writes `METRICS_FILE` and the VQ-GAN's sheet.

    Args:
        recipe, paths: recipe and paths of the run.
        own_scores: corpus-specific scores, the longest first.
        outside: weights of the FID and the CLIP score.
        footer: text at the bottom of the sheet.

    Raises:
        InputError: nothing was generated yet, or weights are missing or of the wrong kind.
    """
    check_weights(outside)
    for name in (PICTURES_FILE, CAPTIONS_FILE):
        if not (paths.samples / name).exists():
            raise InputError(f"{str(paths.samples / name)!r} does not exist; run jobs/generate.py first")
    token_shards = list_token_shards(paths.tokens)
    fingerprint = checked_fingerprint(recipe, paths)
    cpus = recipe.scaling.num_cpus
    with ledger_attempt(paths, "evaluate", use_gpu=False) as ledger, reserved(cpus) as strategy:
        ledger.working.remote()
        task: Any = ray.remote(num_cpus=1, scheduling_strategy=strategy)
        # The longest first, so that no long task runs alone at the end.
        scores = [task(score).remote(paths) for score in own_scores]
        scores.append(task(check_export).remote(paths, held_out_captions(recipe, paths, HELD_OUT_TEXTS)))
        of_shard = task(quality_of_tokens)
        shards = ray.get([of_shard.remote(paths, shard) for shard in token_shards])
        generated = reduce(operator.or_, ray.get(scores))
        size_px = fingerprint.transform["size_px"]
        generated |= outside_scores(paths, generated_pictures(paths), outside, size_px, task)
    manifest = json.loads(open_storage(paths.tokens).text(MANIFEST_FILE) or "")
    metrics: dict[str, Any] = {
        "corpus_rows": manifest["rows_in"],
        "rejected_rows": manifest["rows_rejected"],
        "codes_in_use": manifest["codes_in_use"],
        "vq_psnr_db": reduce(operator.add, [quality for quality, _ in shards]).psnr_db,
        "language_expert_loss": language_expert_loss(paths),
    } | generated
    columns = spread([cells for _, cells in shards if cells], recipe.evaluation.grid_pictures)
    write_png(paths.samples / VQ_SHEET_FILE, picture_sheet(columns, footer))
    text = json.dumps(metrics, indent=2, ensure_ascii=False)
    write_atomically(paths.run / METRICS_FILE, lambda partial: partial.write_text(text))
    for name, value in metrics.items():
        say(f"evaluate: {name} = {value:.4g}" if isinstance(value, float) else f"evaluate: {name} = {value}")
    return metrics


def language_expert_loss(paths: RunPaths) -> float | None:
    """Returns the last loss of the run's own language expert, or None if the recipe names an existing one."""
    record = paths.language_expert / TRAINING_FILE
    return json.loads(record.read_text())["loss"] if record.exists() else None
