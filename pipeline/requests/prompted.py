"""Answers requests with results for prompts or picture files, in a new folder for each job."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.generation.actor import GeneratorConfig
from pipeline.ledger.account import Counts
from pipeline.pages.prompt_results import new_folder
from pipeline.requests.generators import generator_config, make_export, run_generators
from pipeline.requests.request import GenerationRequest, caption_rows, checked_prompts, prompt_rows
from pipeline.requests.results import save_captions, save_documents, save_pictures
from pipeline.runs.attempt import ledger_attempt
from pipeline.runtime.terminal import say

Save = Callable[[GenerationRequest, Path, Iterable[dict[str, Any]]], None]


def generate_from_prompts(
    request: GenerationRequest, texts: tuple[str, ...], file: str, num_each: int, batch_size: int, parent: Path
) -> None:
    """Generates pictures, or documents for the task `joint`, from the prompts of the command line and of a file.

    Args:
        request: the request.
        texts, file: see `read_prompts`.
        num_each: number of results for each prompt.
        batch_size: rows generated at once.
        parent: a new folder with the results is made in it.
    """
    prompts, prompt_len = checked_prompts(request, texts, file)
    joint = request.task == "joint"
    config = replace(
        generator_config(request, batch_size, with_vqgan=True),
        prompt_len=prompt_len,
        documents=request.documents if joint else None,
        as_served=True,
    )
    rows = prompt_rows(prompts, num_each, request.sampling.seed)
    _generate(request, config, rows, parent, save_documents if joint else save_pictures)


def caption_pictures(
    request: GenerationRequest, files: tuple[str, ...], language: str, batch_size: int, parent: Path
) -> None:
    rows = caption_rows(files, language, request.sampling.seed, request.fingerprint)
    _generate(request, generator_config(request, batch_size, with_vqgan=True), rows, parent, save_captions)


def _generate(
    request: GenerationRequest, config: GeneratorConfig, rows: list[dict[str, Any]], parent: Path, save: Save
) -> None:
    recipe, paths = request.recipe, request.paths
    make_export(recipe, paths, request.fingerprint)
    with ledger_attempt(paths, "generate", recipe.scaling.use_gpu) as ledger:
        folder = new_folder(parent)
        save(request, folder, run_generators(config, rows, recipe, ledger))
        ledger.add.remote(Counts(samples=len(rows)))
    say(f"generate: {len(rows)} results are in {folder}")
