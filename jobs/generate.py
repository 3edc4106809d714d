#!/usr/bin/env -S python -P
"""Generates with a trained run: pictures from prompts, captions from pictures, illustrated documents.

With no prompt, for every trained drawing: pictures from its English and Chinese names, captions in both languages
from its codes, and a grid beside the true drawings.
"""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import tyro

from jobs.common.cli import JobOptions, run_job
from pipeline.config.recipe import Recipe
from pipeline.demo.drawings import scored_drawings
from pipeline.errors import UsageError
from pipeline.evaluation.documents import true_documents
from pipeline.generation.documents import DocumentLimits
from pipeline.generation.sampling import Sampling
from pipeline.pages.prompt_results import new_folder
from pipeline.pages.sheets import drawing_grid
from pipeline.requests.generators import generator_config, make_export, run_generators
from pipeline.requests.prompts import check_not_empty
from pipeline.requests.request import (
    Request,
    caption_rows,
    checked_prompts,
    high_resolution,
    prompt_rows,
    save_captions,
    save_documents,
    save_pictures,
)
from pipeline.runs.attempt import ledger_attempt
from pipeline.runs.paths import in_package_cache
from pipeline.runs.token_check import checked_fingerprint
from pipeline.runtime.terminal import say
from tokenization.vqgan.image_tokenizer import ImageTokenizer

PICTURES_FILE, CAPTIONS_FILE, GRID_FILE = "pictures.parquet", "captions.parquet", "grid.png"
PROMPT_BATCH = 16


def _default(what: object) -> Any:
    """Says in --help what a flag that is not given stands for."""
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
    """Of captions."""
    resolution: Annotated[int, _default("as --high-resolution says")] = 0
    """Side of the pictures, px: one that the run was trained for."""
    high_resolution: Literal["yes", "no", "auto"] = "auto"
    """Draw a high-resolution picture after each one. auto: where the last stage has trained for it."""
    num_pictures_each: int = 1
    """Results for each prompt, with seeds that count up."""
    max_pictures: int = 4
    """Of joint: pictures of a document, at most."""
    max_text_ids: int = 256
    """Of joint: text ids that are written, at most."""
    temperature: Annotated[float | None, _default("the recipe's; captions take the likeliest")] = None
    """Divides the logits; 0 takes the likeliest."""
    top_k: Annotated[int | None, _default("the recipe's")] = None
    """Sample among this many likeliest; 0 among all."""
    top_p: float = 1.0
    """Sample among the likeliest that together reach this probability; 1 for all."""
    guidance_scale: Annotated[float | None, _default("the recipe's")] = None
    """Classifier-free guidance of pictures; 1 for none."""
    seed: int = 0
    """Of the sampling, where a prompt has none of its own. Same seed, prompt and batch size: same picture."""
    batch_size: Annotated[int, _default(f"{PROMPT_BATCH}, or the recipe's where that is less")] = 0
    """Rows generated at once; fewer are padded. All trained drawings: the recipe's."""
    output: Annotated[str, _default("samples/prompts in the run's folder")] = ""
    """Folder for results; each run of the job makes a numbered one in it. All trained drawings: `samples`."""

    @property
    def has_request(self) -> bool:
        """Whether there is something to generate other than all trained drawings."""
        return bool(self.prompt or self.prompts or self.image)

    def check(self) -> None:
        """Raises UsageError where flags contradict each other or have impossible values."""
        problems = []
        for name in ("num_pictures_each", "max_text_ids"):
            if getattr(self, name) < 1:
                problems.append(f"--{name.replace('_', '-')} is {getattr(self, name)}, it must be at least 1")
        for name in ("max_pictures", "batch_size", "resolution"):
            if getattr(self, name) < 0:
                problems.append(f"--{name.replace('_', '-')} is {getattr(self, name)}, it must be at least 0")
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
        if problems:
            raise UsageError("; ".join(problems))

    def sampling(self, recipe: Recipe) -> Sampling:
        """How codes are chosen."""
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
    """Generates what is asked for, or for all trained drawings."""
    recipe, paths = options.resolve()
    sampling = options.sampling(recipe)
    check_not_empty(options.prompt)
    options.check()
    if options.output and not Path(options.output).is_absolute() and in_package_cache():
        raise UsageError(f"--output {options.output!r}: the job runs inside Ray's package cache; give an absolute path")
    fingerprint = checked_fingerprint(recipe, paths)
    request = Request(
        recipe=recipe,
        paths=paths,
        fingerprint=fingerprint,
        task=options.task,
        sampling=sampling,
        high=high_resolution(recipe, fingerprint, options.high_resolution, options.resolution),
        documents=DocumentLimits(fingerprint.num_codes, options.max_pictures, options.max_text_ids),
    )
    if not options.has_request:
        make_export(recipe, paths, fingerprint)
        generate_drawings(request)
        if recipe.evaluation.documents:
            generate_documents(request)
        return
    config = generator_config(request, options.batch_size or min(PROMPT_BATCH, recipe.evaluation.batch_size))
    if options.task == "caption":
        rows = caption_rows(options.image, options.language, options.seed, fingerprint)
        if options.temperature is not None:
            config = replace(config, caption_sampling=sampling)
    else:
        prompts, prompt_len = checked_prompts(request, options.prompt, options.prompts)
        rows = prompt_rows(prompts, options.num_pictures_each, options.seed)
        documents = request.documents if options.task == "joint" else None
        config = replace(config, prompt_len=prompt_len, documents=documents)
    make_export(recipe, paths, fingerprint)
    config = replace(config, vqgan=paths.vqgan, vqgan_dtype=fingerprint.encoder_dtype)
    with ledger_attempt(paths, "generate", recipe.scaling.use_gpu) as ledger:
        folder = new_folder(Path(options.output).absolute() if options.output else paths.samples / "prompts")
        made = run_generators(config, rows, recipe, ledger)
        save = {"picture": save_pictures, "caption": save_captions, "joint": save_documents}[options.task]
        save(request, folder, made)
        ledger.add.remote(samples=len(rows))
    say(f"generate: {len(rows)} results are in {folder}")


def generate_drawings(request: Request) -> None:
    """Pictures and captions for all trained drawings, and the grid."""
    recipe, paths, fingerprint = request.recipe, request.paths, request.fingerprint
    drawings = scored_drawings(recipe, paths).drop(columns="high_codes").assign(seed=request.sampling.seed)
    rows = drawings.rename(columns={"caption": "prompt"}).to_dict("records")
    paths.samples.mkdir(parents=True, exist_ok=True)
    say(f"generate: {len(rows)} pictures{' in both resolutions' if request.high else ''} and as many captions")
    with ledger_attempt(paths, "generate", recipe.scaling.use_gpu) as ledger:
        share = -(-len(rows) // min(recipe.scaling.num_workers, len(rows)))  # of a worker, in batches of one size
        batch_size = -(-share // -(-share // recipe.evaluation.batch_size))
        made = run_generators(generator_config(request, batch_size), rows, recipe, ledger)
        table = pd.DataFrame(list(made)).sort_values("row_number")
        ledger.add.remote(samples=2 * len(table))
    names = {"drawn_codes": "codes", "drawn_high_codes": "high_codes"}
    pictures = table[["sample_id", "language", "prompt", *(name for name in names if name in table)]]
    pictures = pictures.rename(columns=names)
    size_px = fingerprint.transform["size_hr_px" if request.high else "size_px"]
    drawing_grid(pictures, ImageTokenizer(paths.vqgan), paths, size_px, recipe.evaluation.grid_drawings).save(
        paths.samples / GRID_FILE
    )
    pictures.to_parquet(paths.samples / PICTURES_FILE)
    captions = table[["sample_id", "language", "prompt", "caption"]].rename(columns={"prompt": "true_caption"})
    captions.to_parquet(paths.samples / CAPTIONS_FILE)
    say(f"generate: pictures, captions and {GRID_FILE} are in {paths.samples}")


def generate_documents(request: Request) -> None:
    """Illustrated documents from the first lines of those that the run trained on."""
    recipe, paths, fingerprint = request.recipe, request.paths, request.fingerprint
    true = true_documents(recipe, paths, recipe.evaluation.documents)
    most_pictures, most_ids = (
        max(counts) for counts in zip(*((len(d.pictures), d.num_ids) for d in true), strict=True)
    )
    limits = DocumentLimits(fingerprint.num_codes, most_pictures, most_ids)
    request = replace(request, task="joint", documents=limits)
    prompts, prompt_len = checked_prompts(request, tuple(document.title for document in true), "")
    config = generator_config(request, min(PROMPT_BATCH, len(prompts)))
    config = replace(config, prompt_len=prompt_len, documents=limits, high=None)
    config = replace(config, vqgan=paths.vqgan, vqgan_dtype=fingerprint.encoder_dtype)
    with ledger_attempt(paths, "generate", recipe.scaling.use_gpu) as ledger:
        folder = new_folder(paths.documents)
        save_documents(request, folder, run_generators(config, prompt_rows(prompts, 1, 0), recipe, ledger))
        ledger.add.remote(samples=len(prompts))
    say(f"generate: illustrated documents are in {folder}")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
