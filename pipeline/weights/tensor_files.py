"""Tensors in files: read from a model's folder and written to new files in pieces.

A model of many gigabytes is copied in pieces of `PIECE_ELEMENTS`, so that neither a whole file nor a whole tensor is in
memory. Only tensors are unpickled: `torch.load` runs with `weights_only`.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.errors import InputError
from tokenization.files.content import content_of_file
from tokenization.files.safetensors_header import stored_tensors
from tokenization.files.torch_files import is_mappable, unpickled, unreadable

PIECE_ELEMENTS = 2**20
"""Elements that are read and written at once: 4 MB in float32."""
INDEXED = tuple(
    name.replace(".", f"{variant}.")
    for variant in ("", ".fp16", ".bf16")
    for name in ("model.safetensors", "pytorch_model.bin")
)
"""Supported weight files of a folder; the first that exists is used, as one file or in parts listed in its index.
Variants of half precision are taken where there is no other."""
INDEX_ENDING = ".index.json"
STATE_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Keys of a model's tensors in training checkpoints."""
BUFFERS = ("bias", "position_ids")
"""Endings of names of masks and positions, which old checkpoints hold as whole numbers."""
PART = re.compile(r"-of-(\d+)\b")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorFile(Protocol):
    """A weight file whose tensors are read in pieces, in any format."""

    path: Path
    shapes: dict[str, tuple[int, ...]]

    def read(self, name: str, start: int, count: int) -> Tensor:
        """Elements `start` to `start + count` of a flattened tensor in the stored dtype: [count]."""


class SafetensorsFile:
    """A safetensors file; only the requested elements are read.

    Raises:
        InputError: the file is truncated, is not a safetensors file, or has a dtype that no model's weights have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stored = stored_tensors(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{str(path)!r} is no readable safetensors file: {unreadable(path, error)}") from error
        self.shapes = {name: one.shape for name, one in self._stored.items()}
        if self._stored and path.stat().st_size != (end := max(one.stop for one in self._stored.values())):
            raise InputError(f"{str(path)!r} has {path.stat().st_size} bytes, not {end}; fetch it again")
        for name, one in self._stored.items():
            if one.dtype not in DTYPES:
                known = ", ".join(DTYPES)
                raise InputError(
                    f"{str(path)!r}: tensor {name!r} is of type {one.dtype}, weights are {known}; "
                    "name the model that was not quantized"
                )
            if one.stop - one.start != math.prod(one.shape) * DTYPES[one.dtype].itemsize:
                raise InputError(
                    f"{str(path)!r}: tensor {name!r} has {one.stop - one.start} bytes, which is not its shape's; "
                    "fetch it again"
                )

    def read(self, name: str, start: int, count: int) -> Tensor:
        one = self._stored[name]
        dtype = DTYPES[one.dtype]
        content = bytearray(count * dtype.itemsize)
        with self.path.open("rb") as file:
            file.seek(one.start + start * dtype.itemsize)
            if file.readinto(content) != len(content):
                raise InputError(f"{str(self.path)!r} ends before tensor {name!r} does; fetch it again")
        return torch.frombuffer(content, dtype=dtype) if count else torch.empty(0, dtype=dtype)


class TorchFile:
    """A file of `torch.save`. It is mapped again for each tensor, because a mapping stays in memory as long as any
    tensor in it is referenced.

    Raises:
        InputError: the file is damaged, or holds something other than tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        tensors, self._is_mapped = load_tensors(path)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self._held = {} if self._is_mapped else tensors

    def read(self, name: str, start: int, count: int) -> Tensor:
        if name not in self._held:
            self._held = {}
            self._held = {name: load_tensors(self.path)[0][name]}
        return self._held[name].reshape(-1)[start : start + count]


def load_tensors(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Returns the tensors of a `torch.save` file, and True if they are mapped, False if they are in memory.

    Raises:
        InputError: see `TorchFile`.
    """
    found = unpickled(path, mapped=True)
    if isinstance(found, dict):
        found = next((found[key] for key in STATE_KEYS if isinstance(found.get(key), dict)), found)
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise InputError(f"{str(path)!r} is no dict of tensors by name; save its state dict alone")
    for name, value in found.items():
        if value.dtype not in DTYPE_NAMES and not name.endswith(BUFFERS):
            raise InputError(
                f"{str(path)!r}: tensor {name!r} is of type {value.dtype}, weights are {', '.join(DTYPES)}; "
                "name the model that was not quantized"
            )
    return found, is_mappable(path)


@dataclass(frozen=True)
class TensorFolder:
    """The tensors of a model's folder, in one or several files.

    Attributes:
        folder: the folder.
        files: names of the files, in order.
        file_of: the file of each tensor.
        shapes: the shape of each tensor.
    """

    folder: Path
    files: tuple[str, ...]
    file_of: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    def open(self, file: str) -> TensorFile:
        """Opens one of the files. A torch file stays mapped as long as the returned object lives."""
        path = self.folder / file
        return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def open_tensor_folder(location: Path) -> TensorFolder:
    """Finds the weight files in a model's folder, or takes the one file that is named.

    Raises:
        InputError: the folder has no weights, or a file or a tensor that its index lists is missing.
    """
    folder = location.parent if location.is_file() else location
    files, listed = ((location.name,), {}) if location.is_file() else _files_of(folder)
    opened = TensorFolder(folder, files, {}, {})
    for file in files:
        if Path(file).name != file or not (folder / file).exists():
            names = sorted(name for name, place in listed.items() if place == file)
            missing = f"; {names[0]!r} is in it" if names else ""
            raise InputError(f"{str(folder)!r} lacks the file {file!r} of its index{missing}; fetch it")
        for name, shape in opened.open(file).shapes.items():
            if name in opened.file_of:
                places = f"{opened.file_of[name]!r} and in {file!r}"
                raise InputError(f"{str(folder)!r}: tensor {name!r} is in {places}; fetch the files anew")
            opened.file_of[name], opened.shapes[name] = file, shape
    for name, file in listed.items():
        if opened.file_of.get(name) != file:
            raise InputError(f"{str(folder)!r}: tensor {name!r} is missing in {file!r}, where its index has it")
    return opened


def _files_of(folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of a folder's weight files, and the file of each tensor if there is an index."""
    for name in INDEXED:
        if (folder / name).exists():
            return (name,), {}
        index = next((path for path in (folder / each for each in _index_names(name)) if path.exists()), None)
        if index is not None:
            try:
                listed = dict(json.loads(index.read_text())["weight_map"])
                if not all(isinstance(file, str) for file in listed.values()):
                    raise ValueError("a file's name is no text")
            except (OSError, ValueError, KeyError, TypeError) as error:
                known = content_of_file(index)
                problem = f"it is {known}" if known and known.remedy else f"{error}; fetch it again"
                raise InputError(f"{str(folder)!r}: {index.name} is not readable: {problem}") from error
            return tuple(sorted(set(listed.values()))), listed
    parts = sorted(path.name for path in folder.glob("*-of-*") if path.suffix in (".safetensors", ".bin"))
    if parts:
        count = int(digits[1]) if (digits := PART.search(parts[0])) else 0
        if len(parts) == count:
            return tuple(parts), {}
        raise InputError(f"{str(folder)!r} has {len(parts)} of {count} parts, and no index of them; fetch the others")
    single = sorted(path.name for path in folder.glob("*.safetensors")) if folder.is_dir() else []
    if len(single) == 1:
        return (single[0],), {}
    raise InputError(f"{str(folder)!r} has no weights: neither {' nor '.join(INDEXED[:2])}, nor an index of its parts")


def _index_names(name: str) -> tuple[str, str]:
    """Names of an index: transformers has a variant's name in the middle or at the end."""
    stem, _, variant = name.rpartition(".")[0].partition(".")
    ending = name.rpartition(".")[2]
    return f"{name}{INDEX_ENDING}", f"{stem}.{ending}.index.{variant}.json"


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written: `pieces` yields its flattened elements in order, in any dtype."""

    name: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Tensor]]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def renamed(self, name: str) -> "NewTensor":
        """The same tensor under another name."""
        return replace(self, name=name)


def pieces_of(file: TensorFile, name: str, start: int, count: int) -> Iterator[Tensor]:
    """Yields elements `start` to `start + count` of a flattened tensor, in pieces."""
    for first in range(start, start + count, PIECE_ELEMENTS):
        yield file.read(name, first, min(PIECE_ELEMENTS, start + count - first))


def write_safetensors(path: Path, tensors: list[NewTensor], dtype: torch.dtype) -> str:
    """Writes the tensors one after the other, and returns the file's sha256.

    The format is that of safetensors: the length of a JSON header, the header, the bytes. The safetensors library can
    only write tensors that are completely in memory.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.count * dtype.itemsize
        header[tensor.name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for content in (len(text).to_bytes(8, "little"), text):
            file.write(content)
            digest.update(content)
        for tensor in tensors:
            written = 0
            for piece in tensor.pieces():
                data = bytes_of(piece.to(dtype))
                file.write(data)
                digest.update(data)
                written += piece.numel()
            assert written == tensor.count, tensor.name
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """A view of a CPU tensor's memory as bytes."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data
