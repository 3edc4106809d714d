"""Weights between stages and out of the pipeline: a frozen base plus the trained visual parameters."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from pipeline.checkpoints import Checkpoint
from pipeline.errors import InputError
from pipeline.model import MarsForCausalLM, is_trained, load_language_expert
from pipeline.slice_files import SliceReader

OBJECTIVE_PREFIX = "mars."


def load_base(folder: Path, codebook_size: int, dtype: torch.dtype, **options: Any) -> MarsForCausalLM:
    """A starting MARS model on the language expert in `folder`.

    Raises:
        InputError: `folder` is no Qwen2 checkpoint.
    """
    check_base(folder)
    transformers_logging.disable_progress_bar()
    return MarsForCausalLM.from_language_expert(load_language_expert(folder, dtype), codebook_size, **options)


def check_base(folder: Path) -> None:
    """Raises InputError where `folder` holds no Qwen2 checkpoint."""
    config_path = folder / "config.json"
    if not config_path.exists():
        raise InputError(
            f"language expert {str(folder)!r} has no config.json; run jobs/train_lm.py or name a Qwen2 folder"
        )
    model_type = json.loads(config_path.read_text()).get("model_type")
    if model_type != "qwen2":
        raise InputError(f"language expert {str(folder)!r} is a {model_type!r} model; MARS is built on qwen2")


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
    if own.keys() != state.keys():
        other = sorted(own.keys() ^ state.keys())
        raise InputError(
            f"checkpoint {str(source)!r} is of another model: {len(other)} parameters differ ({other[0]}, ...)"
        )
    for name, parameter in own.items():
        if parameter.shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)}, the model's is {tuple(parameter.shape)}"
            raise InputError(f"checkpoint {str(source)!r} is of another model: {name} has shape {shapes}")
        parameter.data.copy_(state[name])
