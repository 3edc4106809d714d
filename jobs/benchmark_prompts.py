#!/usr/bin/env -S python -P
"""Draws the prompts of GenEval, DPG-Bench, T2I-CompBench or COCO into the folder that the benchmark's own scorer reads.

A JSON beside the pictures records everything that decides a score. The same command makes the same pictures, and after
an interruption the missing ones. Prompt files and scorers come from the benchmarks' repositories: docs/evaluation.md.
"""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jobs.common.cli import JobOptions, at_least, run_job
from pipeline.errors import UsageError
from pipeline.requests.defaults import PROMPT_BATCH
from pipeline.runs.paths import in_package_cache

GRID_PICTURES = 4


def _default(what: object) -> Any:
    """Shows in --help the value of a flag that is not given."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {what})")


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `benchmark_prompts`."""

    suite: Literal["geneval", "dpg_bench", "t2i_compbench", "coco"] = "geneval"
    """The benchmark."""
    prompts: str = ""
    """Its own prompt file: GenEval's evaluation_metadata.jsonl, dpg_bench.csv (or the folder of its prompts), a text
    file of T2I-CompBench, or COCO's captions_val2014.json."""
    output: str = ""
    """Folder for the pictures: a new one, or one that the same command has begun."""
    samples: Annotated[int, _default("the benchmark's: 4 geneval, 4 dpg_bench, 10 t2i_compbench, 1 coco")] = 0
    """Pictures of each prompt, with consecutive seeds."""
    count: Annotated[int | None, _default("30,000 for coco, else all")] = None
    """Draw so many of the prompts, by the seed; 0 for all."""
    temperature: Annotated[float | None, _default("the recipe's, or 1 where that is 0")] = None
    """Divides the logits; 0 takes the most likely code."""
    top_k: Annotated[int | None, _default("the recipe's")] = None
    """Sample from this many most likely ones; 0 for all."""
    top_p: float = 1.0
    """Sample from the most likely ones that together reach this probability; 1 for all."""
    guidance_scale: Annotated[float | None, _default("the recipe's")] = None
    """Classifier-free guidance; 1 for none."""
    high_resolution: Literal["yes", "no", "auto"] = "auto"
    """Draw in high resolution. auto: if the last stage was trained for it."""
    seed: int = 0
    """Seed of the first picture of each prompt, and of the drawn prompts."""
    batch_size: Annotated[int, _default(f"{PROMPT_BATCH}, or the recipe's where that is less")] = 0
    """Pictures drawn at once; fewer are padded."""
    json: bool = False
    """Print the record as one JSON object, last."""

    def check(self) -> None:
        """Raises UsageError if a flag is missing or impossible."""
        at_least(self, samples=0, batch_size=0)
        if self.count is not None:
            at_least(self, count=0)
        if not self.prompts or not self.output:
            raise UsageError("name the benchmark's prompt file and a folder: --prompts FILE --output FOLDER")
        if self.suite == "coco" and self.samples > 1:
            raise UsageError("--samples is for suites that score several pictures of a prompt; leave it out for coco")
        if self.suite == "dpg_bench" and self.samples > GRID_PICTURES:
            raise UsageError(f"--samples is {self.samples}, but the scorer of dpg_bench reads at most {GRID_PICTURES}")
        if in_package_cache() and not Path(self.output).is_absolute():
            raise UsageError(
                f"--output {self.output!r}: the job runs inside Ray's package cache; give an absolute path"
            )


def main(options: Options) -> dict[str, Any]:
    from pipeline.evaluation.suites import SUITES, suite_prompts
    from pipeline.generation.documents import DocumentLimits
    from pipeline.generation.sampling import Sampling
    from pipeline.requests.request import GenerationRequest, high_resolution
    from pipeline.requests.suite_pictures import SuiteRequest, draw_suite
    from pipeline.runs.token_check import checked_fingerprint

    options.check()
    recipe, paths = options.resolve()
    usual, suite = recipe.evaluation, SUITES[options.suite]
    sampling = Sampling(
        temperature=(usual.temperature or 1.0) if options.temperature is None else options.temperature,
        top_k=usual.top_k if options.top_k is None else options.top_k,
        top_p=options.top_p,
        guidance_scale=usual.guidance_scale if options.guidance_scale is None else options.guidance_scale,
        seed=options.seed,
    )
    if problems := sampling.problems():
        raise UsageError("; ".join(problems))
    samples = options.samples or suite.samples
    if samples > 1 and sampling.temperature == 0:
        raise UsageError("temperature 0 draws the same picture every time; set --samples 1 or another --temperature")
    count = suite.count if options.count is None else options.count
    source, output = Path(options.prompts), Path(options.output).absolute()
    prompts = suite_prompts(options.suite, source, count, options.seed)
    fingerprint = checked_fingerprint(recipe, paths)
    request = GenerationRequest(
        recipe=recipe,
        paths=paths,
        fingerprint=fingerprint,
        task="picture",
        sampling=sampling,
        high=high_resolution(recipe, fingerprint, options.high_resolution, 0),
        documents=DocumentLimits(fingerprint.num_codes, max_pictures=0, max_text_ids=0),
    )
    batch_size = options.batch_size or min(PROMPT_BATCH, usual.batch_size)
    return draw_suite(request, SuiteRequest(options.suite, prompts, source, count, samples, batch_size, output))


if __name__ == "__main__":
    run_job(Options, main, __doc__)
