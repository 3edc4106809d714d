"""Reads files of `torch.save` without running any code in them."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tokenization.errors import InputError
from tokenization.files.content import content_of_file
from tokenization.files.signatures import EMPTY, GGUF, TORCHSCRIPT, ZEROS

NO_WEIGHTS = ("pointer", "text", "picture", "media", "table", "system")
"""Kinds of content that are no weights."""


def unpickled(path: Path, stand_in: Callable[[str], Any | None] | None = None, mapped: bool = False) -> Any:
    """Returns the content of a file of `torch.save`: tensors and plain values, by `weights_only`.

    Args:
        path: the file.
        stand_in: gets the name of each object that the file would import, and returns a class to use in its place, or
            None to refuse the file.
        mapped: read the tensors when they are used, if torch can: it cannot map files of torch before 1.6.

    Raises:
        InputError: the file is damaged, is another one, or could only be read by running code in it.
    """
    if problem := _another(path):
        raise InputError(f"{str(path)!r} is no readable torch file: {problem}")
    try:
        names = names_in(path)
        inert: list[Any] = [(replacement, name) for name in names if stand_in and (replacement := stand_in(name))]
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_mappable(path))
    except pickle.UnpicklingError as error:
        more = f" ({', '.join(sorted(names))})" if names else ""
        raise InputError(
            f"{str(path)!r} holds more than tensors{more}, and nothing else is unpickled; save its state dict alone, "
            "best as safetensors"
        ) from error
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise InputError(f"{str(path)!r} is no readable torch file: {unreadable(path, error)}") from error


def unreadable(path: Path, error: Exception) -> str:
    """The reason why a file of weights cannot be read, such as that it is a pointer or an HTML page, and what to do."""
    reason = str(error).strip().split("\n")[0][:200]
    return _another(path) or f"{reason}; fetch it again"


def _another(path: Path) -> str:
    """Describes a file that holds no weights for torch; empty if it may hold some."""
    try:
        found = content_of_file(path)
    except OSError:
        return ""
    is_another = found in (EMPTY, ZEROS, GGUF, TORCHSCRIPT) or (found is not None and found.kind in NO_WEIGHTS)
    return f"it is {found}" if is_another else ""


def is_mappable(path: Path) -> bool:
    """True if the file was written by torch 1.6 or later."""
    return zipfile.is_zipfile(path)


def names_in(path: Path) -> list[str]:
    """Names that the file would import; unknown for files of torch before 1.6."""
    return torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_mappable(path) else []
