"""Loads a language expert's folder as a frozen base, and adds a visual expert."""

import hashlib
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging

from pipeline.config.language_expert import LanguageExpertConfig
from pipeline.config.model import DEFAULT_OPTIONS, ModelOptions
from pipeline.config.model_sizes import LANGUAGE_EXPERT_POSITIONS
from pipeline.model.mars import MarsForCausalLM, is_trained
from pipeline.weights.language_expert_formats import expert_shapes, open_language_expert, text_name
from pipeline.weights.start_file import is_starting_model
from pipeline.weights.starting_model import StartOptions, finished_record, verify_files


def load_language_expert(folder: Path | str, dtype: torch.dtype) -> Qwen2ForCausalLM | Qwen3ForCausalLM:
    """Loads the language expert in `folder`, in any supported format, as transformers' own class in `dtype`.

    Raises:
        InputError: see `open_language_expert`.
    """
    files = open_language_expert(Path(folder))
    own_names = {text_name(name): name for name in expert_shapes(files.config)}
    state = {own_names[name]: tensor for name, tensor in files.read()}
    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(files.config))
    return kind.from_pretrained(None, config=files.config, state_dict=state, dtype=dtype)


def load_initial_model(
    folder: Path, codebook_size: int, dtype: torch.dtype, options: ModelOptions = DEFAULT_OPTIONS
) -> MarsForCausalLM:
    """Loads the starting model in `folder` made by `jobs/init_model.py`, or makes one from the language expert there.

    Raises:
        InputError: `folder` holds neither, see `open_language_expert` and `finished_record`.
    """
    if is_starting_model(folder):
        record = finished_record(folder, StartOptions(codebook_size, options))
        verify_files(folder, record)
        transformers_logging.disable_progress_bar()
        model: MarsForCausalLM = MarsForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True
        ).freeze_language_expert()
        return model
    transformers_logging.disable_progress_bar()
    return MarsForCausalLM.from_language_expert(load_language_expert(folder, dtype), codebook_size, options)


def base_sha256(model: MarsForCausalLM) -> str:
    """A hash of the complete frozen parameters, rounded to bfloat16: it does not depend on the dtype they have now."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not is_trained(name):
            digest.update(name.encode())
            rounded = parameter.detach().to(torch.bfloat16).cpu().contiguous()
            digest.update(rounded.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def qwen2_config(config: LanguageExpertConfig, vocab_size: int) -> Qwen2Config:
    """The demo's language expert as a Qwen2 config with `vocab_size` rows."""
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=LANGUAGE_EXPERT_POSITIONS,
        tie_word_embeddings=True,
    )
