"""A trained model as a Hugging Face folder, and the checks that an export must pass."""

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from pipeline.checkpoints import Checkpoint
from pipeline.errors import InputError
from pipeline.model import MarsForCausalLM, is_trained, load_language_expert
from pipeline.weights import base_sha256, load_base, load_trained, trained_state

SOURCE_FILE = "mars_source.txt"
"""Names the checkpoint that an export was made from."""


def export_model(
    base: Path,
    checkpoint: Checkpoint,
    codebook_size: int,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    **options: Any,
) -> None:
    """Writes the base with the checkpoint's visual weights to `out`, in bfloat16, whole or not at all.

    Raises:
        InputError: the checkpoint belongs to another base or model.
    """
    model = load_base(base, codebook_size, torch.bfloat16, **options)
    if checkpoint.manifest.base_sha256 != base_sha256(model):
        raise InputError(f"checkpoint {str(checkpoint)!r} was trained on another language expert than {str(base)!r}")
    load_trained(model, trained_state(checkpoint), checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / SOURCE_FILE).write_text(checkpoint.name)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)


def exported_from(out: Path) -> str | None:
    """The name of the checkpoint that the export in `out` was made from; None where there is none."""
    source = out / SOURCE_FILE
    return source.read_text() if source.exists() else None


def load_export(folder: Path, dtype: torch.dtype = torch.bfloat16) -> MarsForCausalLM:
    """The exported model, ready to generate.

    Raises:
        InputError: `folder` is no exported MARS model.
    """
    if not (folder / "config.json").exists():
        raise InputError(
            f"model folder {str(folder)!r} has no config.json; jobs/generate.py makes one from a trained run"
        )
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    if not isinstance(model, MarsForCausalLM):
        raise InputError(f"model folder {str(folder)!r} holds a {type(model).__name__}, no MARS model")
    return model.eval()


@torch.no_grad()
def text_logits_max_abs_diff(model: MarsForCausalLM, base: Path, texts: list[list[int]]) -> float:
    """Largest difference between the model's text logits and those of the base's own class, on text alone."""
    reference = load_language_expert(base, model.dtype).eval()
    worst = 0.0
    for ids in texts:
        batch = torch.tensor([ids])
        own = model(batch).logits[..., : model.config.text_vocab_size]
        worst = max(worst, (own.float() - reference(batch).logits.float()).abs().max().item())
    return worst


def visual_weights_moved(model: MarsForCausalLM, base: Path) -> bool:
    """Whether every visual matrix differs from the one training started from."""
    config = model.config
    start = load_base(
        base,
        config.codebook_size,
        model.dtype,
        shared_output_projection=config.shared_output_projection,
        embedding_noise_std=config.embedding_noise_std,
    )
    initial = dict(start.named_parameters())
    return all(
        not torch.equal(parameter, initial[name])
        for name, parameter in model.named_parameters()
        if is_trained(name) and parameter.dim() == 2
    )
