"""Writes slices of the trained parameters and of AdamW's moments to one safetensors file per rank, and reads them."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.checkpoints.manifest import BLOCK_BYTES, Checkpoint, CheckpointFile, PlacedSlice, block_hash, block_hashes
from pipeline.checkpoints.optimizer_slices import AVERAGE, KEYS, Slice
from pipeline.errors import InputError, OutageError
from tokenization.files.safetensors_header import stored_tensors
from tokenization.files.storage import Storage, open_storage

ELEMENT_BYTES = 4
"""All slices are float32."""
ALL_KEYS = (*KEYS, AVERAGE)
"""The order of a slice's tensors in a file; the last one may be missing."""
HELD_BLOCKS = 2 * len(ALL_KEYS)
"""Blocks of a file kept in memory: its tensors are read in parallel, each from front to end."""


def write_slices(path: Path, slices: list[Slice]) -> CheckpointFile:
    """Writes the slices' tensors as `NAME:KEY`, and returns their locations."""
    tensors = {f"{each.name}:{key}": tensor for each in slices for key, tensor in each.tensors.items()}
    save_file(tensors, path)
    stored = stored_tensors(path)
    placed = {}
    for each in slices:
        places = [stored[f"{each.name}:{key}"].start for key in ALL_KEYS if key in each.tensors]
        placed[each.name] = PlacedSlice(each.start, each.tensors["master"].numel(), places)
    return CheckpointFile(path.stat().st_size, block_hashes(path), placed)


class SliceReader:
    """Reads any part of a checkpoint's parameters, from whichever ranks' files hold it.

    It verifies every block that it reads.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        storage = open_storage(checkpoint.url)
        self._files = {
            name: _VerifiedFile(storage, f"{checkpoint.name}/{name}", record)
            for name, record in checkpoint.manifest.files.items()
        }
        self._shapes = checkpoint.manifest.shapes

    def read(self, name: str, key: str, start: int, count: int) -> Tensor:
        """Elements `start` to `start + count` of a flattened parameter, its moments or its average: float32 [count].

        Raises:
            InputError: a block differs from its hash, or the files do not hold all elements, or no average.
        """
        part, filled = torch.empty(count), 0
        for file in self._files.values():
            placed = file.record.slices.get(name)
            if placed is None:
                continue
            low, high = max(start, placed.start), min(start + count, placed.start + placed.count)
            if low < high:
                if ALL_KEYS.index(key) >= len(placed.places):
                    raise InputError("it has no averaged weights: its stage had ema_decay 0")
                offset = placed.places[ALL_KEYS.index(key)] + ELEMENT_BYTES * (low - placed.start)
                content = bytearray(file.read(offset, offset + ELEMENT_BYTES * (high - low)))
                part[low - start : high - start] = torch.frombuffer(content, dtype=torch.float32)
                filled += high - low
        if filled != count:
            raise InputError(f"{name} has only {filled} of the elements {start} to {start + count}")
        return part

    @property
    def read_bytes(self) -> int:
        """Bytes that were read from the storage so far."""
        return sum(file.read_bytes for file in self._files.values())

    def whole(self, name: str, key: str = "master") -> Tensor:
        """A whole parameter in its own shape, float32."""
        shape = self._shapes[name]
        return self.read(name, key, 0, math.prod(shape)).view(shape)


@dataclass
class _VerifiedFile:
    storage: Storage
    name: str
    record: CheckpointFile
    blocks: dict[int, bytes] = field(default_factory=dict)
    read_bytes: int = 0

    def read(self, start: int, stop: int) -> bytes:
        """Returns bytes `start` to `stop` of the file, verified."""
        numbers = range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES))
        first = numbers[0] * BLOCK_BYTES
        return b"".join(self._block(number) for number in numbers)[start - first : stop - first]

    def _block(self, number: int) -> bytes:
        if number not in self.blocks:
            start = number * BLOCK_BYTES
            try:
                block = self.storage.read(self.name, start, min(start + BLOCK_BYTES, self.record.size))
            except OutageError:
                raise
            except (OSError, InputError) as error:
                raise InputError(f"{self.name} is not readable: {error}") from error
            if block_hash(block) != self.record.blocks[number]:
                raise InputError(f"{self.name} has changed since it was written")
            while len(self.blocks) >= HELD_BLOCKS:
                self.blocks.pop(next(iter(self.blocks)))
            self.blocks[number] = block
            self.read_bytes += len(block)
        return self.blocks[number]
