#!/usr/bin/env -S python -P
"""Generates with a trained run: pictures from prompts, captions from pictures.

With no prompt, for every trained drawing: pictures from its English and Chinese names, captions in both languages
from its codes, and a grid beside the true drawings.
"""

import sys
from pathlib import Path

# `jobs/tokenize.py` would hide the standard library's `tokenize` from every script in this folder.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from dataclasses import dataclass  # noqa: E402
from typing import Annotated  # noqa: E402

import pandas as pd  # noqa: E402
import ray  # noqa: E402
import tyro  # noqa: E402
from PIL import Image  # noqa: E402
from ray.data import ActorPoolStrategy  # noqa: E402

from jobs.common.cli import JobOptions, counted, run_job, say  # noqa: E402
from jobs.common.exit_codes import UsageError  # noqa: E402
from jobs.common.pictures import drawing_grid  # noqa: E402
from jobs.common.recipe import Recipe  # noqa: E402
from jobs.common.run_paths import RunPaths  # noqa: E402
from jobs.common.tokens import checked_fingerprint  # noqa: E402
from pipeline.checkpoints import finished_checkpoint  # noqa: E402
from pipeline.export import export_model, exported_from  # noqa: E402
from pipeline.generation import Sampling  # noqa: E402
from pipeline.generator_actor import Generator  # noqa: E402
from pipeline.token_data import TokenReader, build_row_index, caption_texts  # noqa: E402
from tokenization.image_tokenizer import ImageTokenizer  # noqa: E402
from tokenization.text_tokenizer import load_text_tokenizer  # noqa: E402
from tokenization.token_table import Fingerprint  # noqa: E402

LANGUAGES = ("en", "zh")
PICTURES_FILE, CAPTIONS_FILE, GRID_FILE = "pictures.parquet", "captions.parquet", "grid.png"


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `generate`."""

    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A prompt to draw, English or Chinese. May be repeated. Pictures go to samples/prompts/."""
    temperature: float | None = None
    """Of the sampled codes; 0 takes the likeliest (default: the recipe's)."""
    guidance_scale: float | None = None
    """Classifier-free guidance; 1 for none (default: the recipe's)."""
    seed: int = 0
    """Of the sampling."""


def main(options: Options) -> None:
    """Generates for the prompts, or for all trained drawings."""
    recipe, paths = options.resolve()
    if not all(prompt.strip() for prompt in options.prompt):
        raise UsageError("--prompt is empty; say what to draw")
    evaluation, scaling = recipe.evaluation, recipe.scaling
    sampling = Sampling(
        temperature=evaluation.temperature if options.temperature is None else options.temperature,
        top_k=evaluation.top_k,
        guidance_scale=evaluation.guidance_scale if options.guidance_scale is None else options.guidance_scale,
        seed=options.seed,
    )
    if problems := sampling.problems():
        raise UsageError("; ".join(problems))
    fingerprint = checked_fingerprint(recipe, paths)
    make_export(recipe, paths, fingerprint)
    arguments = (paths.export, fingerprint.num_codes, evaluation.max_caption_ids, sampling, scaling.use_gpu)
    paths.samples.mkdir(parents=True, exist_ok=True)
    vqgan = ImageTokenizer(paths.vqgan)
    with counted(paths, "generate", scaling.num_workers, scaling.use_gpu) as ledger:
        if options.prompt:
            table = run_generator(arguments, [{"prompt": prompt} for prompt in options.prompt], recipe)
            _save_prompts(table, vqgan, paths)
            return
        drawings = scored_drawings(recipe, paths)
        say(f"generate: {len(drawings)} pictures and as many captions")
        table = run_generator(arguments, drawings.rename(columns={"caption": "prompt"}).to_dict("records"), recipe)
        ledger.add.remote(samples=2 * len(table))
    pictures = table[["sample_id", "language", "prompt", "drawn_codes"]].rename(columns={"drawn_codes": "codes"})
    drawing_grid(pictures, vqgan, paths, fingerprint.transform["size_px"], evaluation.grid_drawings).save(
        paths.samples / GRID_FILE
    )
    pictures.to_parquet(paths.samples / PICTURES_FILE)
    captions = table[["sample_id", "language", "prompt", "caption"]].rename(columns={"prompt": "true_caption"})
    captions.to_parquet(paths.samples / CAPTIONS_FILE)
    say(f"generate: pictures, captions and {GRID_FILE} are in {paths.samples}")


def make_export(recipe: Recipe, paths: RunPaths, fingerprint: Fingerprint) -> None:
    """Exports the last stage's model, where that has not been done yet."""
    checkpoint, _ = finished_checkpoint(paths.stage(len(recipe.stages)))
    if exported_from(paths.export) == checkpoint.name:
        return
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    export_model(
        paths.language_expert,
        checkpoint,
        fingerprint.codebook_size,
        tokenizer,
        paths.export,
        shared_output_projection=recipe.shared_output_projection,
        embedding_noise_std=recipe.embedding_noise_std,
    )
    say(f"generate: exported {checkpoint.name} to {paths.export}")


def trained_drawings(recipe: Recipe, paths: RunPaths) -> pd.DataFrame:
    """Rows of the last stage, one a language: sample_id, language, caption, codes."""
    return _drawings(paths, recipe.stages[-1].where)


def scored_drawings(recipe: Recipe, paths: RunPaths) -> pd.DataFrame:
    """What is generated and scored, as `trained_drawings`: those, where the recipe names no others."""
    return _drawings(paths, recipe.evaluation.where or recipe.stages[-1].where)


def _drawings(paths: RunPaths, where: str) -> pd.DataFrame:
    index = build_row_index(paths.tokens, where)
    texts = caption_texts(paths.tokens, index)
    reader = TokenReader(paths.tokens, index, held_shards=1)
    rows = []
    for shard, count in enumerate(index.counts):
        for place in range(count):
            row = reader.row(shard, place)
            for language in LANGUAGES:
                text = texts[row.sample_id].get(language)
                if text:
                    rows.append(dict(sample_id=row.sample_id, language=language, caption=text, codes=row.codes))
    return pd.DataFrame(rows)


def run_generator(arguments: tuple, rows: list[dict], recipe: Recipe) -> pd.DataFrame:
    """Runs the rows through a pool of `Generator`s, in batches of the recipe's size; rows come back in their order."""
    numbered = [row | {"row_number": number} for number, row in enumerate(rows)]
    scaling = recipe.scaling
    workers = min(scaling.num_workers, len(rows))
    generated = ray.data.from_items(numbered, override_num_blocks=workers).map_batches(
        Generator,
        fn_constructor_args=arguments,
        batch_size=min(recipe.evaluation.batch_size, -(-len(rows) // workers)),
        num_cpus=scaling.cpus_per_worker,
        num_gpus=1 if scaling.use_gpu else 0,
        compute=ActorPoolStrategy(size=workers),
    )
    done = []
    for row in generated.iter_rows():
        done.append(row)
        if len(done) % max(1, len(rows) // 4) == 0:
            say(f"generate: {len(done)} of {len(rows)}")
    table = pd.DataFrame(done)
    return table.sort_values("row_number").drop(columns="row_number").reset_index(drop=True)


def _save_prompts(table: pd.DataFrame, vqgan: ImageTokenizer, paths: RunPaths) -> None:
    folder = paths.samples / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in table.iterrows():
        name = "".join(letter if letter.isalnum() else "_" for letter in row["prompt"])[:60]
        path = folder / f"{number:03d}_{name}.png"
        Image.fromarray(vqgan.decode(row["drawn_codes"][None])[0]).save(path)
        say(f"generate: {row['prompt']!r} is drawn in {path}")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
