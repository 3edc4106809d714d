"""Generates for the scored samples of a run: pictures, captions, illustrated documents."""

from dataclasses import replace

import pandas as pd

from pipeline.evaluation.documents import true_documents
from pipeline.evaluation.samples import CAPTIONS_FILE, GRID_FILE, PICTURES_FILE, scored_samples
from pipeline.generation.documents import DocumentLimits
from pipeline.ledger.account import Counts
from pipeline.pages.prompt_results import new_folder
from pipeline.pages.sheets import sample_grid
from pipeline.requests.defaults import PROMPT_BATCH
from pipeline.requests.generators import generator_config, make_export, run_generators
from pipeline.requests.request import GenerationRequest, checked_prompts, prompt_rows
from pipeline.requests.results import save_documents
from pipeline.runs.attempt import ledger_attempt
from pipeline.runtime.terminal import say
from tokenization.files.atomic_writing import write_atomically, write_png
from tokenization.vqgan.image_tokenizer import ImageTokenizer


def generate_for_scores(request: GenerationRequest) -> None:
    """Generates everything that `jobs/evaluate.py` scores."""
    make_export(request.recipe, request.paths, request.fingerprint)
    generate_samples(request)
    if request.recipe.evaluation.documents:
        generate_documents(request)


def generate_samples(request: GenerationRequest) -> None:
    """Generates a picture from each scored caption, a caption from the codes in each language, and the grid."""
    recipe, paths, fingerprint = request.recipe, request.paths, request.fingerprint
    samples = scored_samples(recipe, paths).drop(columns="high_codes").assign(seed=request.sampling.seed)
    rows = samples.rename(columns={"caption": "prompt"}).to_dict("records")
    paths.samples.mkdir(parents=True, exist_ok=True)
    say(f"generate: {len(rows)} pictures{' in both resolutions' if request.high else ''} and as many captions")
    with ledger_attempt(paths, "generate", recipe.scaling.use_gpu) as ledger:
        share = -(-len(rows) // min(recipe.scaling.num_workers, len(rows)))  # rows of a worker, in equal batches
        batch_size = -(-share // -(-share // recipe.evaluation.batch_size))
        made = run_generators(generator_config(request, batch_size, with_vqgan=False), rows, recipe, ledger)
        table = pd.DataFrame(list(made)).sort_values("row_number")
        ledger.add.remote(Counts(samples=2 * len(table)))
    names = {"drawn_codes": "codes", "drawn_high_codes": "high_codes"}
    pictures = table[["sample_id", "language", "prompt", *(name for name in names if name in table)]]
    pictures = pictures.rename(columns=names)
    size_px = fingerprint.transform["size_hr_px" if request.high else "size_px"]
    vqgan, count = ImageTokenizer(paths.vqgan), recipe.evaluation.grid_pictures
    write_png(paths.samples / GRID_FILE, sample_grid(pictures, vqgan, paths, size_px, count, request.footer))
    write_atomically(paths.samples / PICTURES_FILE, pictures.to_parquet)
    captions = table[["sample_id", "language", "prompt", "caption"]].rename(columns={"prompt": "true_caption"})
    write_atomically(paths.samples / CAPTIONS_FILE, captions.to_parquet)
    say(f"generate: pictures, captions and {GRID_FILE} are in {paths.samples}")


def generate_documents(request: GenerationRequest) -> None:
    """Generates illustrated documents from the first lines of the documents that the run trained on."""
    recipe, paths, fingerprint = request.recipe, request.paths, request.fingerprint
    true = true_documents(recipe, paths, recipe.evaluation.documents)
    max_pictures, max_ids = (max(counts) for counts in zip(*((len(d.pictures), d.num_ids) for d in true), strict=True))
    limits = DocumentLimits(fingerprint.num_codes, max_pictures, max_ids)
    request = replace(request, task="joint", documents=limits)
    prompts, prompt_len = checked_prompts(request, tuple(document.title for document in true), "")
    config = generator_config(request, min(PROMPT_BATCH, len(prompts)), with_vqgan=True)
    config = replace(config, prompt_len=prompt_len, documents=limits, high=None)
    with ledger_attempt(paths, "generate", recipe.scaling.use_gpu) as ledger:
        folder = new_folder(paths.documents)
        save_documents(request, folder, run_generators(config, prompt_rows(prompts, 1, 0), recipe, ledger))
        ledger.add.remote(Counts(samples=len(prompts)))
    say(f"generate: illustrated documents are in {folder}")
