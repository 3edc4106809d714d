"""Measures what a checkpoint of many ranks costs beside its bytes: records, manifest, listing, and one rank's reading.

The files are real and small: as many as the ranks write, with as many slices as they have, of few elements each.
"""

import pickle
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoints.manifest import (
    CheckpointFile,
    CheckpointManifest,
    new_folder_name,
    newest_complete,
    rank_file,
    write_manifest,
)
from pipeline.checkpoints.optimizer_slices import KEYS, Slice
from pipeline.checkpoints.records import read_records, write_record
from pipeline.checkpoints.slice_files import SliceReader, write_slices
from pipeline.config.benchmarks import CheckpointSettings
from pipeline.runtime.terminal import say
from tokenization.files.storage import Storage, open_storage

SLICE_ELEMENTS = 4
"""Elements of a rank's slice of each parameter."""


def benchmark_checkpoint(settings: CheckpointSettings) -> dict[str, Any]:
    """Writes and reads the metadata of one checkpoint.

    Returns:
        Seconds of the first rank to read all ranks' records (`records_s`) and to write the manifest (`manifest_s`), of
        finding and opening the newest checkpoint (`open_s`), of packing it for the other ranks (`pack_s`), and of one
        rank's reading of its slices (`read_s`); bytes; and the number of objects.
    """
    with tempfile.TemporaryDirectory() as folder:
        url = settings.location or folder
        return _measure(url, settings.ranks, settings.parameters)


def _measure(url: str, ranks: int, parameters: int) -> dict[str, Any]:
    names = [f"model.layers.{number}.weight" for number in range(parameters)]
    storage, name = open_storage(url), new_folder_name(1)
    say(f"benchmark: writes {ranks} files with {parameters} slices each")
    for rank in range(ranks):
        _write_rank(storage, name, rank, names)
    started = time.monotonic()
    files = read_records(url, name, range(ranks))
    read = time.monotonic()
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (ranks * SLICE_ELEMENTS,))
    by_name = {rank_file(rank): files[rank] for rank in range(ranks)}
    write_manifest(
        storage, name, CheckpointManifest(1, 1, 1, ranks, False, "base", "recipe", "rows", "", shapes, by_name, {})
    )
    written = time.monotonic()
    checkpoint = newest_complete(url)
    opened = time.monotonic()
    assert checkpoint
    broadcast_bytes = len(pickle.dumps(checkpoint))
    packed = time.monotonic()
    reader, rank = SliceReader(checkpoint), ranks // 2
    for each in names:
        for key in KEYS:
            reader.read(each, key, rank * SLICE_ELEMENTS, SLICE_ELEMENTS)
    done = time.monotonic()
    return {
        "ranks": ranks,
        "parameters": parameters,
        "objects": 2 * ranks + 1,
        "records_s": read - started,
        "manifest_s": written - read,
        "open_s": opened - written,
        "pack_s": packed - opened,
        "read_s": done - packed,
        "manifest_and_listing_s": opened - started,
        "manifest_bytes": open_storage(url).size(f"{name}/manifest.json"),
        "broadcast_bytes": broadcast_bytes,
        "read_over_share": reader.read_bytes / checkpoint.manifest.files[rank_file(rank)].size,
    }


def _write_rank(storage: Storage, name: str, rank: int, names: list[str]) -> None:
    slices = [
        Slice(each, rank * SLICE_ELEMENTS, {key: torch.full((SLICE_ELEMENTS,), float(rank)) for key in KEYS})
        for each in names
    ]
    written: list[CheckpointFile] = []

    def fill(path: Path) -> None:
        written.append(write_slices(path, slices))

    storage.write(f"{name}/{rank_file(rank)}", fill)
    write_record(storage, name, rank, written[-1])
