"""Reads the beginning of a safetensors file: the length of a JSON header, and the header.

safetensors' own `safe_open` returns rows of a tensor, but not their offsets in the file, which are needed to read
flattened pieces and checkpoints in S3.
"""

import json
from dataclasses import dataclass
from pathlib import Path

LENGTH_BYTES = 8


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
        header = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    first = LENGTH_BYTES + header_bytes
    return {
        name: StoredTensor(
            one["dtype"], tuple(one["shape"]), first + one["data_offsets"][0], first + one["data_offsets"][1]
        )
        for name, one in header.items()
    }
