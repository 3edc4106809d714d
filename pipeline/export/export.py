"""Exports a trained model as a Hugging Face folder, and checks exports."""

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from pipeline.architecture.mars_config import MarsConfig
from pipeline.checkpoints.manifest import Checkpoint
from pipeline.checkpoints.optimizer_slices import AVERAGE, KEYS
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.config.model import ModelOptions
from pipeline.errors import InputError
from pipeline.export.trained_weights import (
    OBJECTIVE_PREFIX,
    check_language_expert_of,
    check_picture_positions_of,
    check_same_shapes,
    trained_shapes_of,
)
from pipeline.model.loading import load_initial_model, load_language_expert
from pipeline.model.mars import MarsForCausalLM, is_trained
from pipeline.weights.language_expert_formats import LanguageExpertFiles, open_language_expert
from pipeline.weights.starting_model import INDEX_FILE, save_configs
from pipeline.weights.tensor_files import PIECE_ELEMENTS, NewTensor, write_safetensors
from tokenization.files.room import naming_full_disk

SOURCE_FILE = "mars_source.txt"
"""File with the name of the checkpoint that an export was made from."""
SHARD_BYTES = 5_000_000_000
"""Maximum bytes of one weight file."""


def export_model(
    initial_model: Path,
    checkpoint: Checkpoint,
    codebook_size: int,
    options: ModelOptions,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    language_expert_source: str = "",
    finish: Callable[[Path], None] | None = None,
    averaged: bool = False,
) -> None:
    """Writes the language expert with the checkpoint's visual weights to `out` in bfloat16, atomically.

    Tensors are copied in pieces: neither the language expert nor the checkpoint is ever fully in memory.

    Args:
        initial_model: the language expert, or the starting model, that the checkpoint was trained on.
        checkpoint: the checkpoint to export.
        codebook_size: codes of the VQ-GAN.
        options: options of the trained model.
        tokenizer: the text tokenizer.
        out: the export's folder; an existing one is replaced.
        language_expert_source: if set, the export leaves out the language expert, which is then loaded from this folder
            or hub name.
        finish: adds files to the folder before it is moved to `out`.
        averaged: take the moving average of the trained weights.

    Raises:
        InputError: the checkpoint belongs to another language expert or model, is damaged, or has no average.
    """
    expert = open_language_expert(initial_model)
    language_expert_hash = expert.base_sha256()
    check_language_expert_of(checkpoint, language_expert_hash, initial_model)
    config = MarsConfig.from_language_expert(expert.config, codebook_size, options)
    check_picture_positions_of(checkpoint, config.picture_position_std)
    if language_expert_source:
        config.language_expert_source, config.language_expert_sha256 = language_expert_source, language_expert_hash
    with torch.device("meta"):
        model = MarsForCausalLM(config)
    shapes = {name: tuple(each.shape) for name, each in model.named_parameters() if is_trained(name)}
    check_same_shapes(shapes, trained_shapes_of(checkpoint), checkpoint)
    reader, key = SliceReader(checkpoint), AVERAGE if averaged else KEYS[0]
    tensors = [_text(expert, name) for name in expert.parts if not language_expert_source]
    tensors += [_trained(reader, name, shape, key) for name, shape in shapes.items()]

    def fill(folder: Path) -> None:
        try:
            _write_shards(folder, tensors)
        except InputError as error:
            raise InputError(f"checkpoint {str(checkpoint)!r} cannot be exported: {error}; name another") from error
        save_configs(config, torch.bfloat16, folder)
        tokenizer.save_pretrained(folder)
        (folder / SOURCE_FILE).write_text(source_of(checkpoint, averaged))
        if finish:
            finish(folder)

    _write_folder(out, fill)


def _write_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Lets `fill` write a folder, which then takes the place of `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        with naming_full_disk(out, partial):
            fill(partial)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _text(expert: LanguageExpertFiles, name: str) -> NewTensor:
    def pieces() -> Iterable[Tensor]:
        return expert.tensor(name, expert.tensors.open(expert.file_of(name))).pieces()

    return NewTensor(name, expert.parts[name].shape, pieces)


def _trained(reader: SliceReader, name: str, shape: tuple[int, ...], key: str) -> NewTensor:
    count = math.prod(shape)

    def pieces() -> Iterable[Tensor]:
        for start in range(0, count, PIECE_ELEMENTS):
            yield reader.read(OBJECTIVE_PREFIX + name, key, start, min(PIECE_ELEMENTS, count - start))

    return NewTensor(name, shape, pieces)


def _write_shards(folder: Path, tensors: list[NewTensor]) -> None:
    """Writes the tensors to files of up to `SHARD_BYTES`, and their index, with the names of `save_pretrained`."""
    dtype, by_name = torch.bfloat16, {tensor.name: tensor for tensor in tensors}
    split = split_state_dict_into_shards_factory(
        by_name,
        get_storage_size=lambda tensor: tensor.count * dtype.itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    for file, names in split.filename_to_tensors.items():
        write_safetensors(folder / file, [by_name[name] for name in names], dtype)
    if not split.is_sharded:
        return
    index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2))


def source_of(checkpoint: Checkpoint, averaged: bool) -> str:
    """The name of an export's source: the checkpoint's, and whether its averaged weights were taken."""
    return f"{checkpoint.name}, averaged" if averaged else checkpoint.name


def exported_from(out: Path) -> str | None:
    """Returns the name of the source that the export in `out` was made from, or None if there is no export."""
    source = out / SOURCE_FILE
    return source.read_text() if source.exists() else None


def load_export(folder: Path, dtype: torch.dtype = torch.bfloat16) -> MarsForCausalLM:
    """Loads the exported model for generation.

    Raises:
        InputError: `folder` is not an exported MARS model.
    """
    if not (folder / "config.json").exists():
        raise InputError(
            f"model folder {str(folder)!r} has no config.json; jobs/generate.py makes one from a trained run"
        )
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    if not isinstance(model, MarsForCausalLM):
        raise InputError(f"model folder {str(folder)!r} holds a {type(model).__name__}, no MARS model")
    model.eval()
    return model


@torch.no_grad()
def text_logits_max_abs_diff(model: MarsForCausalLM, initial_model: Path, texts: list[list[int]]) -> float:
    """Largest absolute difference between the model's text logits and those of the language expert, on text alone."""
    reference = load_language_expert(initial_model, model.dtype).eval()
    worst = 0.0
    for ids in texts:
        batch = torch.tensor([ids])
        own = model(batch).logits[..., : model.config.text_vocab_size]
        worst = max(worst, (own.float() - reference(batch).logits.float()).abs().max().item())
    return worst


def visual_weights_moved(model: MarsForCausalLM, initial_model: Path) -> bool:
    """True if every visual matrix differs from its value at the start of training."""
    config = model.config
    start = load_initial_model(
        initial_model,
        config.codebook_size,
        model.dtype,
        config.options,
    )
    initial = dict(start.named_parameters())
    return all(
        not torch.equal(parameter, initial[name])
        for name, parameter in model.named_parameters()
        if is_trained(name) and parameter.dim() == 2
    )
