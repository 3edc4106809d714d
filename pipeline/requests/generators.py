"""Runs generators on Ray Data over rows of prompts."""

from collections.abc import Iterator
from typing import Any

import ray
from ray.actor import ActorProxy
from ray.data import ActorPoolStrategy

from pipeline.checkpoints.manifest import finished_checkpoint
from pipeline.config.recipe import Recipe
from pipeline.export.export import export_model, exported_from, source_of
from pipeline.generation.actor import Generator, GeneratorConfig
from pipeline.ledger.actor import LedgerActor
from pipeline.requests.request import GenerationRequest
from pipeline.runs.paths import RunPaths
from pipeline.runtime.shortage import check_obtainable
from pipeline.runtime.terminal import say
from tokenization.config.node_labels import NodeNeeds
from tokenization.table.token_table import Fingerprint
from tokenization.text_tokenizer import load_text_tokenizer


def generator_config(request: GenerationRequest, batch_size: int, with_vqgan: bool) -> GeneratorConfig:
    """Returns the common config of a run's generators. `with_vqgan` is True for those that read or make pixels."""
    return GeneratorConfig(
        export=request.paths.export,
        batch_size=batch_size,
        prompt_len=request.fingerprint.max_caption_ids,
        num_codes=request.fingerprint.num_codes,
        sampling=request.sampling,
        caption_sampling=request.caption_sampling,
        max_caption_ids=request.recipe.evaluation.max_caption_ids,
        high=request.high,
        vqgan=request.paths.vqgan if with_vqgan else None,
        vqgan_dtype=request.fingerprint.encoder_dtype,
        use_gpu=request.recipe.scaling.use_gpu,
        num_drafts=request.num_drafts,
        draft_tokens=str(request.paths.tokens),
        num_candidates=request.num_candidates,
    )


def make_export(recipe: Recipe, paths: RunPaths, fingerprint: Fingerprint) -> None:
    """Exports the last stage's model if that is not done yet."""
    checkpoint = finished_checkpoint(paths.checkpoints(len(recipe.stages)))
    averaged = recipe.evaluation.averaged_weights
    source = source_of(checkpoint, averaged)
    if exported_from(paths.export) == source:
        return
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    export_model(
        paths.initial_model,
        checkpoint,
        fingerprint.codebook_size,
        recipe.model_options,
        tokenizer,
        paths.export,
        averaged=averaged,
    )
    say(f"generate: exported {source} to {paths.export}")


def run_generators(
    config: GeneratorConfig, rows: list[dict], recipe: Recipe, ledger: ActorProxy[LedgerActor]
) -> Iterator[dict[str, Any]]:
    """Runs rows through a pool of `Generator`s on Ray Data, yields results as they finish, with `row_number`."""
    numbered = [row | {"row_number": number} for number, row in enumerate(rows)]
    scaling = recipe.scaling
    workers = min(scaling.num_workers, -(-len(rows) // config.batch_size))
    resources = {"CPU": float(scaling.cpus_per_worker)} | ({"GPU": 1.0} if scaling.use_gpu else {})
    needs = NodeNeeds(resources, scaling.label_selector)
    check_obtainable([needs], "change scaling.cpus_per_worker, use_gpu or label_selector")
    generated = ray.data.from_items(numbered, override_num_blocks=workers).map_batches(
        Generator,
        fn_constructor_args=(config,),
        batch_size=config.batch_size,
        num_cpus=scaling.cpus_per_worker,
        num_gpus=1 if scaling.use_gpu else 0,
        label_selector=scaling.label_selector or None,
        compute=ActorPoolStrategy(size=workers),
    )
    for done, row in enumerate(generated.iter_rows(), start=1):
        if done == 1:
            ledger.working.remote()
        if done % max(1, len(rows) // 4) == 0:
            say(f"generate: {done} of {len(rows)}")
        yield row
