"""Weights between stages and out of the pipeline: a frozen base plus the trained visual parameters."""

import hashlib
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from pipeline.checkpoints import MANIFEST_FILE
from pipeline.errors import InputError
from pipeline.model import MarsForCausalLM, is_trained, load_language_expert

OBJECTIVE_PREFIX = "mars."
ENGINE_TAG = "engine"
"""DeepSpeed's folder inside a checkpoint."""


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
    """A hash over the frozen parameters, whole and in their own dtype."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not is_trained(name):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def trained_state(checkpoint: Path) -> dict[str, Tensor]:
    """The trained parameters in a checkpoint, float32, under the model's own names.

    Raises:
        InputError: `checkpoint` is no finished checkpoint.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    if not (checkpoint / MANIFEST_FILE).exists():
        raise InputError(f"{str(checkpoint)!r} is no finished checkpoint: it has no {MANIFEST_FILE}")
    said = StringIO()  # it tells how it goes about it
    try:
        with redirect_stdout(said), redirect_stderr(said):
            state = get_fp32_state_dict_from_zero_checkpoint(checkpoint, ENGINE_TAG, exclude_frozen_parameters=True)
    except Exception:
        sys.stderr.write(said.getvalue())
        raise
    return {name.removeprefix(OBJECTIVE_PREFIX): tensor.clone() for name, tensor in state.items()}


def load_trained(model: MarsForCausalLM, state: dict[str, Tensor], source: Path) -> None:
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
