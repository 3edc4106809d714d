"""Exports a checkpoint as a folder for others: the model, its VQ-GAN, its recipe and a model card."""

import json
from dataclasses import asdict
from pathlib import Path

from pipeline.architecture.mars_config import MarsConfig
from pipeline.checkpoints.manifest import Checkpoint
from pipeline.export.export import export_model
from pipeline.reports.model_card import model_card
from pipeline.runs.language_expert_check import base_config
from pipeline.runs.paths import RunPaths
from pipeline.runs.token_check import checked_fingerprint
from pipeline.serving.served_model import save_description
from tokenization.text_tokenizer import load_text_tokenizer
from tokenization.vqgan.formats import load_vqgan, save_vqgan

VQGAN_FOLDER = "vqgan"


def export_with_card(
    paths: RunPaths, stage_number: int, checkpoint: Checkpoint, out: Path, language_expert: str, averaged: bool = False
) -> None:
    """Writes the folder atomically.

    Args:
        paths: paths of the run, with the recipe that the stage was trained with.
        stage_number, checkpoint: stage and checkpoint to export.
        out: a new folder.
        language_expert: folder or hub name from which the loaded model gets its language expert; empty to include its
            weights in the export.
        averaged: see `export_model`.

    Raises:
        InputError: the run's tokens or its language expert are missing, or do not fit its recipe.
    """
    recipe = paths.recipe
    fingerprint = checked_fingerprint(recipe, paths)
    vqgan, options = load_vqgan(paths.vqgan), recipe.model_options
    config = MarsConfig.from_language_expert(base_config(paths), fingerprint.codebook_size, options)
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)

    def finish(folder: Path) -> None:
        save_vqgan(vqgan, folder / VQGAN_FOLDER)
        (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2, ensure_ascii=False))
        card = model_card(paths, checkpoint, stage_number, config, vqgan, VQGAN_FOLDER, language_expert)
        (folder / "README.md").write_text(card)
        save_description(paths, stage_number, checkpoint, fingerprint, folder)

    export_model(
        paths.initial_model,
        checkpoint,
        fingerprint.codebook_size,
        options,
        tokenizer,
        out,
        language_expert_source=language_expert,
        finish=finish,
        averaged=averaged,
    )
