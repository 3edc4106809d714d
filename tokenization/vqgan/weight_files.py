"""Reads tensors from published weight files. Only tensors are unpickled."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tokenization.errors import InputError
from tokenization.files.torch_files import unpickled

INERT = (
    *("pytorch_lightning.", "lightning.", "omegaconf.", "argparse.Namespace", "collections.", "typing."),
    *("builtins.dict", "builtins.list", "builtins.int", "builtins.float", "builtins.str", "builtins.bool"),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "_codecs.encode"),
)
"""Names in training checkpoints other than tensors: trainers, settings, numbers. Each is replaced by an empty stand-in;
the real object is never imported."""
STATE_KEYS = ("state_dict", "ema", "model")
"""Keys of the model's tensors in training checkpoints of Lightning and of LlamaGen."""


class _StandIn:
    def __new__(cls, *args: Any, **kwargs: Any) -> "_StandIn":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _DictStandIn:
    """Replaces a subclass of dict, which `weights_only` would not fill, by a plain dict."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return {}


def _stand_in(name: str) -> Any | None:
    if not name.startswith(INERT):
        return None
    return type("StandIn", (_DictStandIn if name.startswith("collections.") else _StandIn,), {})


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file.

    Raises:
        InputError: the file is no safetensors file, or is truncated.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} is no readable safetensors file: {error}; fetch it again") from error


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Reads the model's tensors from a torch file, which may be a training checkpoint.

    Raises:
        InputError: the file is no torch file, or could only be read by running code in it.
    """
    found = unpickled(path, _stand_in)
    inner = next(
        (found[key] for key in STATE_KEYS if isinstance(found, dict) and isinstance(found.get(key), dict)), found
    )
    tensors = (
        {name: value for name, value in inner.items() if isinstance(value, Tensor)} if isinstance(inner, dict) else {}
    )
    if not tensors:
        raise InputError(f"{str(path)!r} has no tensors by name; name a file of a model's weights")
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """Reads the object in a JSON file; empty if the file holds another value.

    Raises:
        InputError: the file cannot be read, or is no JSON.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not readable: {error}; fetch it again") from error
    return values if isinstance(values, dict) else {}
