"""Tensors out of the files that people publish. Nothing but tensors is unpickled."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tokenization.errors import InputError
from tokenization.torch_files import unpickled

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
    found = unpickled(path, lambda name: type("StandIn", (_StandIn,), {}) if name.startswith(INERT) else None)
    inner = next(
        (found[key] for key in STATE_KEYS if isinstance(found, dict) and isinstance(found.get(key), dict)), found
    )
    tensors = (
        {name: value for name, value in inner.items() if isinstance(value, Tensor)} if isinstance(inner, dict) else {}
    )
    if not tensors:
        raise InputError(f"{str(path)!r} has no tensors by name; name a file of a model's weights")
    return tensors
