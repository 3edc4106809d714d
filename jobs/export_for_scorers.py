#!/usr/bin/env -S python -P
"""Draws the prompts of T2I-CompBench or GenEval, and writes the pictures in the layout of the benchmark's own scorers.

The scorers and their prompt files are not part of this project: take them from their repositories.
"""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.common.cli import JobOptions, run_job
from pipeline.errors import InputError, UsageError
from pipeline.runs.paths import in_package_cache


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `export_for_scorers`."""

    layout: Literal["t2i-compbench", "geneval"] = "geneval"
    """Benchmark whose layout is written."""
    prompts: str = ""
    """The benchmark's prompt file: a text file of T2I-CompBench, or GenEval's evaluation_metadata.jsonl."""
    output: str = ""
    """New folder for the pictures."""
    samples: int = 0
    """Pictures per prompt (default: the benchmark's own number, 10 for t2i-compbench, 4 for geneval)."""
    temperature: float = 1.0
    """Sampling temperature of the codes."""
    guidance_scale: float | None = None
    """Classifier-free guidance; 1 for none (default: the recipe's)."""
    seed: int = 0
    """Seed of the sampling."""


def main(options: Options) -> None:
    from pipeline.evaluation.scorer_layouts import USUAL_SAMPLES, read_prompts
    from pipeline.generation.documents import DocumentLimits
    from pipeline.generation.sampling import Sampling
    from pipeline.requests.request import GenerationRequest, high_resolution
    from pipeline.requests.scorers import draw_for_scorer
    from pipeline.runs.token_check import checked_fingerprint

    recipe, paths = options.resolve()
    samples = options.samples or USUAL_SAMPLES[options.layout]
    if not options.prompts or not options.output:
        raise UsageError("name the benchmark's prompt file and a new folder: --prompts FILE --output FOLDER")
    if samples < 1:
        raise UsageError(f"--samples is {samples}, but must be at least 1")
    if samples > 1 and options.temperature == 0:
        raise UsageError("--temperature 0 draws the same picture every time; set --samples 1 or another temperature")
    if in_package_cache() and not Path(options.output).is_absolute():
        raise UsageError(f"--output {options.output!r}: the job runs inside Ray's package cache; give an absolute path")
    evaluation = recipe.evaluation
    guidance = evaluation.guidance_scale if options.guidance_scale is None else options.guidance_scale
    sampling = Sampling(
        temperature=options.temperature, top_k=evaluation.top_k, guidance_scale=guidance, seed=options.seed
    )
    if problems := sampling.problems():
        raise UsageError("; ".join(problems))
    prompts, output = read_prompts(options.layout, Path(options.prompts)), Path(options.output)
    if output.exists() and any(output.iterdir()):
        raise InputError(
            f"--output {options.output!r} is not empty, and the scorer scores all it finds; name a new one"
        )
    fingerprint = checked_fingerprint(recipe, paths)
    request = GenerationRequest(
        recipe=recipe,
        paths=paths,
        fingerprint=fingerprint,
        task="picture",
        sampling=sampling,
        high=high_resolution(recipe, fingerprint, "auto", 0),
        documents=DocumentLimits(fingerprint.num_codes, max_pictures=0, max_text_ids=0),
    )
    draw_for_scorer(request, options.layout, prompts, samples, output)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
