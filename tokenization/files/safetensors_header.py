"""Reads the beginning of a safetensors file: the length of a JSON header, and the header.

safetensors' own `safe_open` returns rows of a tensor, but not their offsets in the file, which are needed to read
flattened pieces and checkpoints in a bucket.
"""

import json
from dataclasses import dataclass
from pathlib import Path

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""As safetensors' own limit."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its dtype by safetensors' name, its shape, and its first byte and the one after its last,
    counted from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, by name.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: the file is truncated, or no safetensors file.
    """
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 2 <= header_bytes <= path.stat().st_size - LENGTH_BYTES:
            raise ValueError("its header is cut off")
        if header_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"its header has {header_bytes} bytes, more than {MAX_HEADER_BYTES}")
        header = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    first = LENGTH_BYTES + header_bytes
    found = {}
    for name, one in header.items():
        dtype, shape, (start, stop) = one["dtype"], one["shape"], one["data_offsets"]
        numbers = [*shape, start, stop]
        if not isinstance(dtype, str) or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"tensor {name!r} has no dtype, shape or place in it")
        found[name] = StoredTensor(dtype, tuple(shape), first + start, first + stop)
    return found
