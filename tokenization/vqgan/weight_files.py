"""Tensors out of the files that people publish. Nothing but tensors is unpickled."""

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
"""What training checkpoints name beside their tensors: trainers, settings, numbers. An empty stand-in is put in place
of each; the real one is never imported."""
STATE_KEYS = ("state_dict", "ema", "model")
"""Where a training checkpoint has the model's tensors: Lightning's, and LlamaGen's."""


class _StandIn:
    def __new__(cls, *args: Any, **kwargs: Any) -> "_StandIn":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _DictStandIn:
    """Stands in for a subclass of dict, which `weights_only` would not fill: makes a plain dict."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return {}


def _stand_in(name: str) -> Any | None:
    if not name.startswith(INERT):
        return None
    return type("StandIn", (_DictStandIn if name.startswith("collections.") else _StandIn,), {})


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
    """The object in a JSON file; empty if it holds another value.

    Raises:
        InputError: the file cannot be read, or is no JSON.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not readable: {error}; fetch it again") from error
    return values if isinstance(values, dict) else {}
