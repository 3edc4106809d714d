"""Makes checkpoints without a model."""

import math
from pathlib import Path

import torch

from pipeline.checkpoints.manifest import (
    CheckpointManifest,
    new_folder_name,
    rank_file,
    write_manifest,
)
from pipeline.checkpoints.optimizer_slices import KEYS, Slice
from pipeline.checkpoints.slice_files import write_slices
from tokenization.files.storage import open_storage

SHAPES = {"mars.a": (7, 9), "mars.b": (5,), "mars.c": (100, 30)}


def values(name: str, key: str, step: int) -> torch.Tensor:
    """Returns the values of a parameter or a moment at a step, flattened."""
    start = 1000 * step + 100 * list(SHAPES).index(name) + 10 * KEYS.index(key)
    return torch.arange(math.prod(SHAPES[name]), dtype=torch.float32) + start


def make(url: str, step: int, world_size: int = 2, finished: bool = False, manifest: bool = True) -> str:
    """Makes a checkpoint whose parameters are partitioned like ZeRO-3's."""
    storage, name, files = open_storage(url), new_folder_name(step), {}
    for rank in range(world_size):
        slices = []
        for parameter, shape in SHAPES.items():
            size = -(-math.prod(shape) // world_size)
            part = slice(rank * size, (rank + 1) * size)
            tensors = {key: values(parameter, key, step)[part].clone() for key in KEYS}
            if tensors["master"].numel():
                slices.append(Slice(parameter, rank * size, tensors))

        def fill(path: Path, slices: list[Slice] = slices, rank: int = rank) -> None:
            files[rank_file(rank)] = write_slices(path, slices)

        storage.write(f"{name}/{rank_file(rank)}", fill)
    if manifest:
        record = CheckpointManifest(step, step, 8 * step, world_size, finished, "b", "r", "i", "s", SHAPES, files, {})
        write_manifest(storage, name, record)
    return name
