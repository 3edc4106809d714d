#!/usr/bin/env -S python -P
"""Scores a run from the results of `jobs/generate.py`, and checks the exported model. Writes metrics.json."""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from typing import Any

from jobs.common.cli import JobOptions, run_job


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `evaluate`."""

    fid_weights: str = ""
    """Local file of Inception weights, TorchScript or torch-fidelity's. Adds the FID."""
    clip_weights: str = ""
    """Local folder of a CLIP model in transformers' format. Adds the CLIP score."""
    json: bool = False
    """Print the metrics as one JSON object, last."""


def main(options: Options) -> dict[str, Any]:
    from pipeline.demo.corpora import attribution_of
    from pipeline.demo_scores.scores import demo_scores
    from pipeline.evaluation.outside_scores import OutsideWeights
    from pipeline.evaluation.run_scores import evaluate_run

    recipe, paths = options.resolve()
    outside = OutsideWeights(options.fid_weights, options.clip_weights)
    return evaluate_run(recipe, paths, demo_scores(recipe), outside, attribution_of(recipe.corpus))


if __name__ == "__main__":
    run_job(Options, main, __doc__)
