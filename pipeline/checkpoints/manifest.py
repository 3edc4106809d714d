"""Checkpoints: folders of files that count only once their manifest is written, and are verified as they are read.

A folder `step-STEP-ID` holds one safetensors file per rank, with the rank's slices of the float32 weights and of
AdamW's moments (see `optimizer_slices`). The manifest gives the file and the bytes of each slice. Any number of ranks
can read a checkpoint. Nothing in it is ever unpickled.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, OutageError
from tokenization.files.checks import is_inside
from tokenization.files.storage import Storage, open_storage

MANIFEST_FILE, HASH_KEY = "manifest.json", "sha256"
NEVER_FINISHED = f"no {MANIFEST_FILE}, it was never finished"
NAME = re.compile(r"step-\d{8,}-[0-9a-f]{8}")
BLOCK_BYTES = 8 * 2**20
"""Files are hashed in blocks of this size, so that a part of a file can be verified without the rest."""


@dataclass(frozen=True)
class PlacedSlice:
    """The location of elements `start` to `start + count` of a flattened parameter: byte offsets of its tensors in a
    file, in the order of `pipeline.checkpoints.optimizer_slices.KEYS`."""

    start: int
    count: int
    places: list[int]


@dataclass(frozen=True)
class CheckpointFile:
    """One rank's file: size in bytes, the sha256 of each of its blocks, and its slices by parameter."""

    size: int
    blocks: list[str]
    slices: dict[str, PlacedSlice]

    def as_object(self) -> dict[str, Any]:
        """The record as in the manifest."""
        slices = {
            name: {"start": placed.start, "count": placed.count, "places": placed.places}
            for name, placed in self.slices.items()
        }
        return {"size": self.size, "blocks": self.blocks, "slices": slices}


@dataclass(frozen=True)
class CheckpointManifest:
    """The content of a finished checkpoint.

    Attributes:
        step: steps done.
        optimizer_steps: the number of those steps that updated the weights.
        samples: samples seen.
        world_size: ranks that saved it.
        finished: True for the last checkpoint of its stage.
        base_sha256: hash of the frozen language expert, which the checkpoint does not hold.
        recipe_sha256: hash of the stage's settings.
        row_index_sha256: hash of the rows that the stage trains on, and of their content.
        initial_sha256: hash of the manifest of the checkpoint that the stage started from; empty if there was none.
        shapes: shapes of the trained parameters, by name.
        files: the ranks' files, by name.
        guard: see `StepGuard.state`.
        picture_position_std: see `MarsConfig`. No parameter shows this value, and the weights only fit a model with
            the same one.
    """

    step: int
    optimizer_steps: int
    samples: int
    world_size: int
    finished: bool
    base_sha256: str
    recipe_sha256: str
    row_index_sha256: str
    initial_sha256: str
    shapes: dict[str, tuple[int, ...]]
    files: dict[str, CheckpointFile]
    guard: dict[str, Any]
    picture_position_std: float = 0.0

    def as_object(self) -> dict[str, Any]:
        """The manifest as in its file. `asdict` would take seconds for the slices of a thousand ranks."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values | {"files": {name: record.as_object() for name, record in self.files.items()}}

    def sha256(self) -> str:
        """Identifies the checkpoint: its manifest contains the hashes of all files."""
        return _sha256(_text(self._members()))

    def text(self) -> str:
        """The manifest's file: its members and its hash, sorted. Of it without the hash, that is the hash."""
        members = self._members()
        return _text(members | {HASH_KEY: json.dumps(_sha256(_text(members)))})

    def _members(self) -> dict[str, str]:
        """The members as JSON, by name."""
        values = self.as_object()
        if not self.picture_position_std:
            del values["picture_position_std"]  # older manifests without this field keep their hash
        return {name: json.dumps(value, sort_keys=True, separators=(",", ":")) for name, value in values.items()}


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint: the folder or URL that contains it, its own name, its manifest."""

    url: str
    name: str
    manifest: CheckpointManifest

    def __str__(self) -> str:
        return f"{self.url}/{self.name}"


def new_folder_name(step: int) -> str:
    """Returns a folder name that no other attempt uses."""
    return f"step-{step:08d}-{uuid.uuid4().hex[:8]}"


def rank_file(rank: int) -> str:
    """The name of a rank's file in a checkpoint."""
    return f"rank-{rank:05d}.safetensors"


def write_manifest(storage: Storage, name: str, manifest: CheckpointManifest) -> None:
    """Completes the checkpoint. Call on one rank, after all ranks have written."""
    text = manifest.text()
    storage.write(f"{name}/{MANIFEST_FILE}", lambda path: path.write_text(text))


def complete_checkpoints(url: str, passed_over: list[str]) -> Iterator[Checkpoint]:
    """Yields the checkpoints whose files all exist in full size, newest first.

    Appends to `passed_over` the reason for each checkpoint that is skipped. The content is verified only when it is
    read.
    """
    storage = open_storage(url)
    names = set(storage.names())
    for name in sorted(folders_of(names), key=by_step, reverse=True):
        if f"{name}/{MANIFEST_FILE}" not in names:
            passed_over.append(f"{name}: {NEVER_FINISHED}")
            continue
        try:
            yield open_checkpoint(url, name)
        except InputError as error:
            passed_over.append(f"{name}: {error}")


def folders_of(names: Collection[str]) -> set[str]:
    """The checkpoint folders, complete or not, among the file names of a storage."""
    return {folder for name in names if NAME.fullmatch(folder := name.split("/")[0])}


def newest_complete(url: str) -> Checkpoint | None:
    """Returns the first of `complete_checkpoints`, or None."""
    return next(complete_checkpoints(url, []), None)


def open_checkpoint(url: str, name: str) -> Checkpoint:
    """Reads the manifest, and the sizes of the files.

    Raises:
        InputError: the manifest is not readable, or a file is missing or has another size.
        OutageError: the storage does not answer; the checkpoint may be intact.
    """
    storage = open_storage(url)
    try:
        with storage.local(f"{name}/{MANIFEST_FILE}") as path:
            text = path.read_text()
        values = json.loads(text)
        written = values.pop(HASH_KEY)
        manifest = _manifest_of(values)
    except OutageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{MANIFEST_FILE} is not readable: {type(error).__name__}: {error}") from error
    as_written = text.replace(f'"{HASH_KEY}":"{written}",', "", 1)
    if _sha256(as_written) != written and manifest.sha256() != written:  # earlier code did not sort the file
        raise InputError(f"{MANIFEST_FILE} has changed since it was written")
    if manifest.step != step_of(name):
        raise InputError(f"{MANIFEST_FILE} is of step {manifest.step}: it belongs to another checkpoint")
    if outside := [file for file in manifest.files if not is_inside(file) or "/" in file]:
        raise InputError(f"{MANIFEST_FILE} names {outside[0]!r}, which is not a file of its folder")
    try:
        sizes = open_storage(f"{url}/{name}").sizes()
    except OutageError:
        raise
    except (OSError, InputError) as error:
        raise InputError(f"its files cannot be listed: {error}") from error
    for file, record in manifest.files.items():
        size = sizes.get(file)
        if size is None:
            raise InputError(f"{file} is missing")
        if size != record.size:
            raise InputError(f"{file} has {size} bytes, not {record.size}")
    return Checkpoint(url, name, manifest)


def finished_checkpoint(location: str | Path, allow_unfinished: bool = False) -> Checkpoint:
    """Returns the checkpoint at `location`, or the newest one if `location` is a stage or a folder of checkpoints.

    Raises:
        InputError: there is none, it is damaged, or its stage did not finish and `allow_unfinished` is False.
    """
    url = str(location).rstrip("/")
    if open_storage(url).exists(MANIFEST_FILE):
        parent, _, name = url.rpartition("/")
        try:
            checkpoint = open_checkpoint(parent, name)
        except InputError as error:
            raise InputError(f"checkpoint {url!r} is damaged: {error}; name another") from error
    else:
        found = newest_complete(f"{url}/checkpoints") or newest_complete(url)
        if found is None:
            raise InputError(f"{url!r} has no checkpoint; run jobs/train_stage.py for it first")
        checkpoint = found
    if not (checkpoint.manifest.finished or allow_unfinished):
        raise InputError(
            f"{str(checkpoint)!r} is of a stage that stopped at step {checkpoint.manifest.step}; finish it with "
            "jobs/train_stage.py, or start from it as it is with --allow-unfinished"
        )
    return checkpoint


def _text(members: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in sorted(members.items())) + "}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def step_of(name: str) -> int:
    """The step in a checkpoint's name."""
    return int(name.split("-")[1])


def by_step(name: str) -> tuple[int, str]:
    """Sorts checkpoints' names."""
    return step_of(name), name


def block_hashes(path: Path) -> list[str]:
    """The sha256 of each block of a file, hexadecimal."""
    with path.open("rb") as file:
        return [block_hash(block) for block in iter(lambda: file.read(BLOCK_BYTES), b"")]


def block_hash(block: bytes) -> str:
    """The sha256 of one block, hexadecimal."""
    return hashlib.sha256(block).hexdigest()


def checkpoint_file(values: dict[str, Any]) -> CheckpointFile:
    """Rebuilds a file's record from its `as_object`."""
    slices = {name: PlacedSlice(**placed) for name, placed in values["slices"].items()}
    return CheckpointFile(values["size"], values["blocks"], slices)


def _manifest_of(values: dict[str, Any]) -> CheckpointManifest:
    files = {name: checkpoint_file(record) for name, record in values["files"].items()}
    shapes = {name: tuple(shape) for name, shape in values["shapes"].items()}
    return CheckpointManifest(**values | {"files": files, "shapes": shapes})
