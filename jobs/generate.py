#!/usr/bin/env -S python -P
"""Generates with a trained run: pictures from prompts, captions from pictures, illustrated documents.

With no prompt, for every trained drawing: pictures from its English and Chinese names, captions in both languages
from its codes, and a grid beside the true drawings.
"""

import sys
from pathlib import Path

# `jobs/tokenize.py` would hide the standard library's `tokenize` from every script in this folder.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from collections.abc import Iterator  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from typing import Annotated, Any, Literal  # noqa: E402

import pandas as pd  # noqa: E402
import ray  # noqa: E402
import tyro  # noqa: E402
from ray.data import ActorPoolStrategy  # noqa: E402

from jobs.common.cli import JobOptions, counted, run_job, say  # noqa: E402
from jobs.common.documents import true_documents  # noqa: E402
from jobs.common.exit_codes import UsageError  # noqa: E402
from jobs.common.generation_request import (  # noqa: E402
    LANGUAGES,
    Request,
    caption_rows,
    checked_prompts,
    high_resolution,
    prompt_rows,
    save_captions,
    save_documents,
    save_pictures,
)
from jobs.common.pictures import drawing_grid  # noqa: E402
from jobs.common.prompt_results import new_folder  # noqa: E402
from jobs.common.prompts import check_not_empty  # noqa: E402
from jobs.common.recipe import Recipe  # noqa: E402
from jobs.common.run_paths import RunPaths, in_package_cache  # noqa: E402
from jobs.common.tokens import checked_fingerprint  # noqa: E402
from pipeline.checkpoints import finished_checkpoint  # noqa: E402
from pipeline.export import export_model, exported_from  # noqa: E402
from pipeline.generator_actor import Generator, GeneratorConfig  # noqa: E402
from pipeline.joint_generation import DocumentLimits  # noqa: E402
from pipeline.row_index import RowSelection, build_row_index  # noqa: E402
from pipeline.sampling import GREEDY, Sampling  # noqa: E402
from pipeline.stage_config import Source  # noqa: E402
from pipeline.token_data import TokenReader, caption_texts  # noqa: E402
from tokenization.image_tokenizer import ImageTokenizer  # noqa: E402
from tokenization.text_tokenizer import load_text_tokenizer  # noqa: E402
from tokenization.token_table import Fingerprint  # noqa: E402

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
    with counted(paths, "generate", recipe.scaling.use_gpu) as ledger:
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
    with counted(paths, "generate", recipe.scaling.use_gpu) as ledger:
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
    with counted(paths, "generate", recipe.scaling.use_gpu) as ledger:
        folder = new_folder(paths.documents)
        save_documents(request, folder, run_generators(config, prompt_rows(prompts, 1, 0), recipe, ledger))
        ledger.add.remote(samples=len(prompts))
    say(f"generate: illustrated documents are in {folder}")


def generator_config(request: Request, batch_size: int) -> GeneratorConfig:
    """What all generators of a run have in common. Captions take the likeliest ids."""
    return GeneratorConfig(
        export=request.paths.export,
        batch_size=batch_size,
        prompt_len=request.fingerprint.max_caption_ids,
        num_codes=request.fingerprint.num_codes,
        sampling=request.sampling,
        caption_sampling=GREEDY,
        max_caption_ids=request.recipe.evaluation.max_caption_ids,
        high=request.high,
        use_gpu=request.recipe.scaling.use_gpu,
    )


def make_export(recipe: Recipe, paths: RunPaths, fingerprint: Fingerprint) -> None:
    """Exports the last stage's model, where that has not been done yet."""
    checkpoint = finished_checkpoint(paths.checkpoints(len(recipe.stages)))
    if exported_from(paths.export) == checkpoint.name:
        return
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    export_model(
        paths.base,
        checkpoint,
        fingerprint.codebook_size,
        tokenizer,
        paths.export,
        **recipe.model_options(),
    )
    say(f"generate: exported {checkpoint.name} to {paths.export}")


def trained_drawings(recipe: Recipe, paths: RunPaths) -> pd.DataFrame:
    """Rows of the last stage, one a language: sample_id, language, caption, codes, high_codes (None where there are
    none)."""
    source = recipe.stages[-1].sources[recipe.first_corpus]
    return _drawings(paths, source)


def scored_drawings(recipe: Recipe, paths: RunPaths) -> pd.DataFrame:
    """What is generated and scored, as `trained_drawings`: those, where the recipe names no others."""
    if not recipe.evaluation.where:
        return trained_drawings(recipe, paths)
    return _drawings(paths, Source(where=recipe.evaluation.where))


def _drawings(paths: RunPaths, source: Source) -> pd.DataFrame:
    index = build_row_index(RowSelection(paths.tokens, source.where, source.side_tables, held_out=source.held_out))
    texts = caption_texts(paths.tokens, index)
    reader = TokenReader(paths.tokens, index, held_shards=1)
    rows = []
    for shard, count in enumerate(index.counts):
        for place in range(count):
            row = reader.row(shard, place)
            own = dict(sample_id=row.sample_id, codes=row.codes, high_codes=row.high_codes)
            for language in LANGUAGES:
                text = texts[row.sample_id].get(language)
                if text:
                    rows.append(own | dict(language=language, caption=text))
    return pd.DataFrame(rows)


def run_generators(config: GeneratorConfig, rows: list[dict], recipe: Recipe, ledger: Any) -> Iterator[dict[str, Any]]:
    """The rows, through a pool of `Generator`s on Ray Data, as they come; `row_number` says which is which."""
    numbered = [row | {"row_number": number} for number, row in enumerate(rows)]
    scaling = recipe.scaling
    workers = min(scaling.num_workers, -(-len(rows) // config.batch_size))
    generated = ray.data.from_items(numbered, override_num_blocks=workers).map_batches(
        Generator,
        fn_constructor_args=(config,),
        batch_size=config.batch_size,
        num_cpus=scaling.cpus_per_worker,
        num_gpus=1 if scaling.use_gpu else 0,
        compute=ActorPoolStrategy(size=workers),
    )
    for done, row in enumerate(generated.iter_rows(), start=1):
        if done == 1:
            ledger.working.remote()
        if done % max(1, len(rows) // 4) == 0:
            say(f"generate: {done} of {len(rows)}")
        yield row


if __name__ == "__main__":
    run_job(Options, main, __doc__)
