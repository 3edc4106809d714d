#!/usr/bin/env -S python -P
"""Draws the prompts of T2I-CompBench or GenEval and lays the pictures out as the benchmark's own scorers read them.

The scorers and their prompt files are not part of this project: take them from their repositories.
"""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jobs.common.cli import JobOptions, run_job
from pipeline.errors import InputError, UsageError
from pipeline.evaluation.scorer_layouts import USUAL_SAMPLES, picture_file, read_prompts, write_metadata
from pipeline.generation.documents import DocumentLimits
from pipeline.generation.sampling import Sampling
from pipeline.requests.generators import generator_config, make_export, run_generators
from pipeline.requests.request import Request, checked_prompts, high_resolution
from pipeline.runs.attempt import ledger_attempt
from pipeline.runs.paths import in_package_cache
from pipeline.runs.token_check import checked_fingerprint
from pipeline.runtime.terminal import say


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `export_for_scorers`."""

    layout: Literal["t2i-compbench", "geneval"] = "geneval"
    """Whose."""
    prompts: str = ""
    """The benchmark's prompt file: a text file of T2I-CompBench, or GenEval's evaluation_metadata.jsonl."""
    output: str = ""
    """New folder for the pictures."""
    samples: int = 0
    """Pictures a prompt (default: as the benchmark draws, 10 for t2i-compbench, 4 for geneval)."""
    temperature: float = 1.0
    """Of the sampled codes."""
    guidance_scale: float | None = None
    """Classifier-free guidance; 1 for none (default: the recipe's)."""
    seed: int = 0
    """Of the sampling."""


def main(options: Options) -> None:
    """Draws every prompt as often as asked."""
    recipe, paths = options.resolve()
    samples = options.samples or USUAL_SAMPLES[options.layout]
    if not options.prompts or not options.output:
        raise UsageError("name the benchmark's prompt file and a new folder: --prompts FILE --output FOLDER")
    if samples < 1:
        raise UsageError(f"--samples is {samples}, it must be at least 1")
    if samples > 1 and options.temperature == 0:
        raise UsageError("--temperature 0 draws the same picture every time; set --samples 1 or another temperature")
    if in_package_cache() and not Path(options.output).is_absolute():
        raise UsageError(f"--output {options.output!r}: the job runs inside Ray's package cache; give an absolute path")
    evaluation, scaling = recipe.evaluation, recipe.scaling
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
    request = Request(
        recipe=recipe,
        paths=paths,
        fingerprint=fingerprint,
        task="picture",
        sampling=sampling,
        high=high_resolution(recipe, fingerprint, "auto", 0),
        documents=DocumentLimits(fingerprint.num_codes, max_pictures=0, max_text_ids=0),
    )
    checked_prompts(request, tuple(prompt.text for prompt in prompts), "")
    make_export(recipe, paths, fingerprint)
    rows = [
        {
            "prompt": prompt.text,
            "seed": options.seed + sample,
            "file": picture_file(options.layout, prompt, number, sample, samples),
        }
        for number, prompt in enumerate(prompts)
        for sample in range(samples)
    ]
    say(f"export_for_scorers: {samples} pictures of each of {len(prompts)} prompts")
    config = replace(
        generator_config(request, evaluation.batch_size), vqgan=paths.vqgan, vqgan_dtype=fingerprint.encoder_dtype
    )
    write_metadata(options.layout, output, prompts)
    with ledger_attempt(paths, "export_for_scorers", scaling.use_gpu) as ledger:
        for row in run_generators(config, rows, recipe, ledger):
            path = output / row["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row["high_png" if request.high else "png"])
        ledger.add.remote(samples=len(rows))
    say(f"export_for_scorers: {len(rows)} pictures are in {output}, as the scorers of {options.layout} read them")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
