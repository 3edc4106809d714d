#!/usr/bin/env -S python -P
"""Generates with a trained run: pictures from prompts, captions from pictures, illustrated documents.

Without a prompt, it generates for every scored sample of the run: pictures from its captions, captions in both
languages from its codes, and a grid with the sample's own picture.
"""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jobs.common.cli import JobOptions, at_least, run_job
from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError
from pipeline.requests.defaults import PROMPT_BATCH
from pipeline.runs.paths import in_package_cache

if TYPE_CHECKING:
    from pipeline.generation.sampling import Sampling


def _default(what: object) -> Any:
    """Shows in --help the value of a flag that is not given."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {what})")


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `generate`."""

    task: Literal["picture", "caption", "joint"] = "picture"
    """picture: prompts to pictures. caption: pictures to text. joint: prompts to text in which the model opens pictures
    by itself."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A prompt, in any language. May be repeated."""
    prompts: Annotated[str, _default("none")] = ""
    """File of prompts: .txt, one a line; .jsonl, objects with `prompt` and optionally `language`, `seed`, `id`."""
    image: tuple[str, ...] = ()
    """Picture files to caption."""
    language: Literal["en", "zh"] = "en"
    """Language of captions."""
    resolution: Annotated[int, _default("as --high-resolution says")] = 0
    """Side of the pictures in px; the run must have been trained for it."""
    high_resolution: Literal["yes", "no", "auto"] = "auto"
    """Draw a high-resolution picture after each one. auto: if the last stage was trained for it."""
    num_pictures_each: int = 1
    """Results for each prompt, with consecutive seeds."""
    max_pictures: int = 4
    """For joint: maximum number of pictures in a document."""
    max_text_ids: int = 256
    """For joint: maximum number of generated text ids."""
    temperature: Annotated[float | None, _default("the recipe's; captions take the likeliest")] = None
    """Divides the logits; 0 takes the most likely code."""
    top_k: Annotated[int | None, _default("the recipe's")] = None
    """Sample from this many most likely ones; 0 for all."""
    top_p: float = 1.0
    """Sample from the most likely ones that together reach this probability; 1 for all."""
    guidance_scale: Annotated[float | None, _default("the recipe's")] = None
    """Classifier-free guidance of pictures; 1 for none."""
    num_candidates: Annotated[int | None, _default("the recipe's")] = None
    """Draw so many pictures for each prompt, and keep the one out of which the model reads the prompt best, by the
    likelihood of its captioning; 1: draw one. Needs a temperature above 0."""
    seed: int = 0
    """Seed of the sampling for prompts without a seed. The same seed, prompt and batch size give the same picture."""
    batch_size: Annotated[int, _default(f"{PROMPT_BATCH}, or the recipe's where that is less")] = 0
    """Rows generated at once; fewer are padded. For the scored samples: the recipe's."""
    num_drafts: int = 0
    """Speculative decoding on CPUs: draft so many codes of a picture for each pass, from the pictures of the run's
    first corpus, and keep the right ones. The pictures are the same, up to rounding; they are there sooner if they
    resemble the corpus and few are drawn at once: for one prompt, add --batch-size 1. 0: plain decoding."""
    output: Annotated[str, _default("samples/prompts in the run's folder")] = ""
    """Folder for results; each job makes a numbered folder in it. For the scored samples: `samples`."""

    @property
    def has_request(self) -> bool:
        """True if something other than the scored samples was requested."""
        return bool(self.prompt or self.prompts or self.image)

    def check(self) -> None:
        """Raises UsageError if flags contradict each other or have impossible values."""
        at_least(self, num_pictures_each=1, max_text_ids=1, max_pictures=0, batch_size=0, resolution=0, num_drafts=0)
        problems = []
        if self.task == "caption" and not self.image:
            problems.append("--task caption needs --image FILE")
        if self.task == "caption" and (self.prompt or self.prompts):
            problems.append("--task caption takes --image, and no prompt")
        if self.task != "caption" and self.image:
            problems.append(f"--image is for --task caption, not for {self.task}")
        if self.task == "joint" and not self.has_request:
            problems.append("--task joint needs --prompt TEXT or --prompts FILE")
        if self.task != "picture" and (self.high_resolution == "yes" or self.resolution):
            problems.append(
                f"--task {self.task} works at the base resolution; leave --high-resolution and --resolution"
            )
        if self.task != "picture" and self.num_drafts:
            problems.append(f"--num-drafts is for --task picture, not for {self.task}")
        if self.task != "picture" and self.num_candidates is not None:
            problems.append(f"--num-candidates is for --task picture, not for {self.task}")
        if problems:
            raise UsageError("; ".join(problems))

    def candidates(self, recipe: Recipe, sampling: "Sampling") -> int:
        """Returns how many pictures are drawn for each prompt.

        Raises:
            UsageError: fewer than one, or several that would all be the same picture.
        """
        count = recipe.evaluation.num_candidates if self.num_candidates is None else self.num_candidates
        if count < 1:
            raise UsageError(f"--num-candidates is {count}, but must be at least 1")
        if count > 1 and self.task == "picture" and sampling.greedy:
            raise UsageError(
                f"{count} candidates of a prompt are the same picture at temperature 0; add --temperature 1, or "
                "--num-candidates 1"
            )
        return count

    def sampling(self, recipe: Recipe) -> "Sampling":
        """Returns how codes are sampled."""
        from pipeline.generation.sampling import Sampling

        usual = recipe.evaluation
        sampling = Sampling(
            temperature=usual.temperature if self.temperature is None else self.temperature,
            top_k=usual.top_k if self.top_k is None else self.top_k,
            top_p=self.top_p,
            guidance_scale=usual.guidance_scale if self.guidance_scale is None else self.guidance_scale,
            seed=self.seed,
        )
        if problems := sampling.problems():
            raise UsageError("; ".join(problems))
        return sampling


def main(options: Options) -> None:
    from pipeline.demo.corpora import attribution_of
    from pipeline.generation.documents import DocumentLimits
    from pipeline.generation.sampling import GREEDY
    from pipeline.requests.prompted import caption_pictures, generate_from_prompts
    from pipeline.requests.prompts import check_not_empty
    from pipeline.requests.request import GenerationRequest, high_resolution
    from pipeline.requests.samples import generate_for_scores
    from pipeline.runs.token_check import checked_fingerprint

    recipe, paths = options.resolve()
    sampling = options.sampling(recipe)
    check_not_empty(options.prompt)
    options.check()
    num_candidates = options.candidates(recipe, sampling)
    if options.num_drafts and recipe.scaling.use_gpu:
        raise UsageError("--num-drafts: on a GPU a pass is a CUDA graph with a fixed number of codes; leave it out")
    if options.output and not Path(options.output).is_absolute() and in_package_cache():
        raise UsageError(f"--output {options.output!r}: the job runs inside Ray's package cache; give an absolute path")
    fingerprint = checked_fingerprint(recipe, paths)
    request = GenerationRequest(
        recipe=recipe,
        paths=paths,
        fingerprint=fingerprint,
        task=options.task,
        sampling=sampling,
        high=high_resolution(recipe, fingerprint, options.high_resolution, options.resolution),
        documents=DocumentLimits(fingerprint.num_codes, options.max_pictures, options.max_text_ids),
        caption_sampling=GREEDY if options.temperature is None or not options.has_request else sampling,
        footer=attribution_of(recipe.corpus),
        num_drafts=options.num_drafts,
        num_candidates=num_candidates,
    )
    batch_size = options.batch_size or min(PROMPT_BATCH, recipe.evaluation.batch_size)
    parent = Path(options.output).absolute() if options.output else paths.samples / "prompts"
    if not options.has_request:
        generate_for_scores(request)
    elif options.task == "caption":
        caption_pictures(request, options.image, options.language, batch_size, parent)
    else:
        generate_from_prompts(request, options.prompt, options.prompts, options.num_pictures_each, batch_size, parent)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
