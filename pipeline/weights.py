"""Weights between stages and out of the pipeline: a frozen base plus the trained visual parameters."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from pipeline.checkpoints import Checkpoint
from pipeline.errors import InputError
from pipeline.model import MarsForCausalLM, is_trained, load_language_expert
from pipeline.slice_files import SliceReader
from pipeline.starting_model import StartOptions, finished_record, is_starting_model, verify_files

OBJECTIVE_PREFIX = "mars."


def load_base(folder: Path, codebook_size: int, dtype: torch.dtype, **options: Any) -> MarsForCausalLM:
    """A starting MARS model on the language expert in `folder`; or the one that `jobs/init_model.py` made, in `folder`.

    Raises:
        InputError: `folder` is neither, see `open_language_expert` and `finished_record`.
    """
    if is_starting_model(folder):
        record = finished_record(folder, StartOptions(codebook_size, **options))
        verify_files(folder, record)
        transformers_logging.disable_progress_bar()
        return MarsForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).freeze_language_expert()
    transformers_logging.disable_progress_bar()
    return MarsForCausalLM.from_language_expert(load_language_expert(folder, dtype), codebook_size, **options)


def base_sha256(model: MarsForCausalLM) -> str:
    """A hash over the frozen parameters, whole, rounded to bfloat16: whatever dtype they were loaded in, the same."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not is_trained(name):
            digest.update(name.encode())
            rounded = parameter.detach().to(torch.bfloat16).cpu().contiguous()
            digest.update(rounded.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def trained_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The trained parameters in a checkpoint, float32, under the model's own names.

    Raises:
        InputError: it is damaged.
    """
    reader = SliceReader(checkpoint)
    try:
        return {name.removeprefix(OBJECTIVE_PREFIX): reader.whole(name) for name in checkpoint.manifest.shapes}
    except InputError as error:
        raise InputError(f"checkpoint {str(checkpoint)!r} is damaged: {error}; name another") from error


def load_trained(model: MarsForCausalLM, state: dict[str, Tensor], source: object) -> None:
    """Puts the trained parameters of `source` into `model`.

    Raises:
        InputError: names or shapes are not this model's.
    """
    own = {name: parameter for name, parameter in model.named_parameters() if is_trained(name)}
    check_same_shapes(
        {name: tuple(parameter.shape) for name, parameter in own.items()},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        source,
    )
    for name, parameter in own.items():
        parameter.data.copy_(state[name])


def check_same_shapes(own: dict[str, tuple[int, ...]], shapes: dict[str, tuple[int, ...]], source: object) -> None:
    """Raises InputError where the trained parameters of `source` are not the model's `own` ones."""
    for name, shape in own.items():
        if name not in shapes:
            raise InputError(f"checkpoint {str(source)!r} is of another model: {name} is missing")
        if shapes[name] != shape:
            difference = f"{name} has shape {shapes[name]}, the model's is {shape}"
            raise InputError(f"checkpoint {str(source)!r} is of another model: {difference}")
    if unexpected := sorted(shapes.keys() - own.keys()):
        raise InputError(f"checkpoint {str(source)!r} is of another model: {unexpected[0]} is unexpected")


def trained_shapes_of(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shapes of the trained parameters in a checkpoint, under the model's own names."""
    return {name.removeprefix(OBJECTIVE_PREFIX): shape for name, shape in checkpoint.manifest.shapes.items()}


def check_picture_positions_of(checkpoint: Checkpoint, std: float) -> None:
    """Raises InputError where a checkpoint was trained with another `picture_position_std`."""
    if (trained := checkpoint.manifest.picture_position_std) != std:
        raise InputError(
            f"checkpoint {str(checkpoint)!r} was trained with picture_position_std {trained}, not {std}; undo the "
            "change, or train it again"
        )


def check_base_of(checkpoint: Checkpoint, base_hash: str, base: Path) -> None:
    """Raises InputError where a checkpoint was trained on another language expert than `base`, of this hash."""
    if checkpoint.manifest.base_sha256 != base_hash:
        raise InputError(
            f"checkpoint {str(checkpoint)!r} was trained on another language expert than {str(base)!r}; "
            "train it again, or put its language expert back"
        )
