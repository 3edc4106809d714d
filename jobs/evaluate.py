#!/usr/bin/env -S python -P
"""Scores a run, and writes metrics.json and a sheet of pictures.

A run on a corpus of your own is scored on held-out rows, a stated number drawn by seed: bits by task and language,
retrieval by likelihood, and some pictures. A run whose samples `jobs/generate.py` has drawn, as in the demo, is scored
by those results, and its export is checked.
"""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from typing import Any

from jobs.common.cli import JobOptions, at_least, run_job


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `evaluate`."""

    fid_weights: str = ""
    """Local file of Inception weights, TorchScript or torch-fidelity's. Adds the FID."""
    clip_weights: str = ""
    """Local folder of a CLIP model in transformers' format. Adds the CLIP score."""
    rows: int | None = None
    """Held-out rows to draw (default: 256, or all if there are fewer); makes the demo score held-out rows, too, into
    held_out.json."""
    seed: int = 0
    """Seed of the drawn rows and of the pictures."""
    retrieval: int = 32
    """Pictures and captions of the retrieval, at most; their number squared is scored for each language."""
    json: bool = False
    """Print the metrics as one JSON object, last."""


def main(options: Options) -> dict[str, Any]:
    from pipeline.demo.corpora import attribution_of
    from pipeline.demo_scores.scores import demo_scores
    from pipeline.evaluation.outside_scores import OutsideWeights
    from pipeline.evaluation.run_scores import evaluate_run
    from pipeline.evaluation.samples import PICTURES_FILE
    from pipeline.held_out_scores.evaluate import ROWS, evaluate_held_out

    at_least(options, seed=0, retrieval=0)
    if options.rows is not None:
        at_least(options, rows=1)
    recipe, paths = options.resolve()
    outside = OutsideWeights(options.fid_weights, options.clip_weights)
    if options.rows or (recipe.corpus.path and not (paths.samples / PICTURES_FILE).exists()):
        return evaluate_held_out(recipe, paths, options.rows or ROWS, options.seed, options.retrieval, outside)
    return evaluate_run(recipe, paths, demo_scores(recipe), outside, attribution_of(recipe.corpus))


if __name__ == "__main__":
    run_job(Options, main, __doc__)
