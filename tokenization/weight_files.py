"""Tensors out of the files that people publish. Nothing but tensors is unpickled."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tokenization.errors import InputError

INERT = ("pytorch_lightning.", "lightning.", "omegaconf.", "argparse.Namespace", "collections.")
"""What training checkpoints name beside their tensors. An empty stand-in is put in place of each; the real one is
never imported."""
STATE_KEYS = ("state_dict", "ema", "model")
"""Where a training checkpoint has the model's tensors: Lightning's, and LlamaGen's."""


class _StandIn:
    def __new__(cls, *args: Any, **kwargs: Any) -> "_StandIn":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: it is none, or cut short.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} is no readable safetensors file: {error}; fetch it again") from error


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The model's tensors in a torch file, which may be a training checkpoint.

    Raises:
        InputError: it is none, or something in it would have to run to be read.
    """
    try:
        is_zip = zipfile.is_zipfile(path)  # torch wrote other files before 1.6
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_zip else []
        stand_ins: list[Any] = [(type("StandIn", (_StandIn,), {}), name) for name in unknown if name.startswith(INERT)]
        with torch.serialization.safe_globals(stand_ins):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{str(path)!r} holds more than tensors{_names(path)}, and nothing else is unpickled; "
            "save its state dict alone, best as safetensors"
        ) from error
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise InputError(f"{str(path)!r} is no readable torch file: {_first_line(error)}; fetch it again") from error
    inner = next(
        (found[key] for key in STATE_KEYS if isinstance(found, dict) and isinstance(found.get(key), dict)), found
    )
    tensors = (
        {name: value for name, value in inner.items() if isinstance(value, Tensor)} if isinstance(inner, dict) else {}
    )
    if not tensors:
        raise InputError(f"{str(path)!r} has no tensors by name; name a file of a model's weights")
    return tensors


def _names(path: Path) -> str:
    """What a file would import to be read."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    return f" ({', '.join(sorted(names))})" if names else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
