"""Reads tensors from published weight files. Only tensors are unpickled."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tokenization.errors import InputError
from tokenization.files.content import content_of_file, what_file_is
from tokenization.files.signatures import HTML
from tokenization.files.tensor_names import unwrapped
from tokenization.files.torch_files import unpickled, unreadable
from tokenization.vqgan.weight_choice import has_averages, own_tensors, state_of

INERT = (
    *("pytorch_lightning.", "lightning.", "omegaconf.", "argparse.Namespace", "collections.", "typing."),
    *("builtins.dict", "builtins.list", "builtins.int", "builtins.float", "builtins.str", "builtins.bool"),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "_codecs.encode"),
)
"""Names in training checkpoints other than tensors: trainers, settings, numbers. Each is replaced by an empty stand-in;
the real object is never imported."""


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


@dataclass(frozen=True)
class WeightsRead:
    """The VQ-GAN's tensors under their own names, and the names of all tensors in the file, without wrappers' names."""

    tensors: dict[str, Tensor]
    names: frozenset[str]


def read_tensors(path: Path, choice: str = "", takes_averages: bool = False) -> WeightsRead:
    """Reads the VQ-GAN's tensors from a file, which may be a training checkpoint or hold a larger model.

    Args:
        path: a safetensors file or a torch file.
        choice: one of `WEIGHTS` of `tokenization.config.vqgan`.
        takes_averages: see `own_tensors`.

    Raises:
        InputError: the file is damaged or no such file, could only be read by running code in it, or has no tensors.
    """
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
        own = own_tensors(tensors, choice, False, takes_averages, str(path))
        return WeightsRead(own, frozenset(map(unwrapped, tensors)))
    found = unpickled(path, _stand_in)
    inner = state_of(found, choice) if isinstance(found, dict) else {}
    tensors = {name: value for name, value in inner.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{str(path)!r} has no tensors by name; name a file of a model's weights")
    are_averages = inner is not found and has_averages(found)
    own = own_tensors(tensors, choice, are_averages, takes_averages, str(path))
    return WeightsRead(own, frozenset(map(unwrapped, tensors)))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} is no readable safetensors file: {unreadable(path, error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads the object in a JSON file.

    Raises:
        InputError: the file cannot be read, is no JSON, or holds another value.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        problem = what_file_is(path) if _is_no_text_of_ours(path) else f"{error}; fetch it again"
        raise InputError(f"{str(path)!r} is not readable: {problem}") from error
    if not isinstance(values, dict):
        raise InputError(f"{str(path)!r} holds a {type(values).__name__}, but must hold an object; fetch it again")
    return values


def _is_no_text_of_ours(path: Path) -> bool:
    try:
        found = content_of_file(path)
    except OSError:
        return False
    return found is HTML or (found is not None and found.kind == "pointer")
