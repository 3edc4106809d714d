"""Checkpoints: folders of files that count only once their manifest is written, and are verified as they are read.

A folder `step-STEP-ID` holds one safetensors file a rank, with the rank's slices of the float32 weights and of AdamW's
moments (see `optimizer_slices`), and the manifest, which says where in which file what lies. Any number of ranks reads
what it needs of it. Nothing in it is ever unpickled.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, OutageError
from tokenization.files.checks import is_inside
from tokenization.files.storage import Storage, open_storage

MANIFEST_FILE = "manifest.json"
NEVER_FINISHED = f"no {MANIFEST_FILE}, it was never finished"
NAME = re.compile(r"step-\d{8,}-[0-9a-f]{8}")
BLOCK_BYTES = 8 * 2**20
"""Files are hashed in blocks of this size, so that a part of a file can be verified without the rest."""


@dataclass(frozen=True)
class PlacedSlice:
    """Where the elements `start` to `start + count` of a flattened parameter lie: the places in bytes of its tensors in
    a file, in the order of `pipeline.checkpoints.optimizer_slices.KEYS`."""

    start: int
    count: int
    places: list[int]


@dataclass(frozen=True)
class CheckpointFile:
    """One rank's file: size in bytes, the sha256 of each of its blocks, and its slices by parameter."""

    size: int
    blocks: list[str]
    slices: dict[str, PlacedSlice]


@dataclass(frozen=True)
class CheckpointManifest:
    """What a finished checkpoint holds.

    Attributes:
        step: steps done.
        optimizer_steps: those of them that updated the weights.
        samples: samples seen.
        world_size: ranks that saved it.
        finished: it is its stage's last.
        base_sha256: of the frozen language expert, which the checkpoint does not hold.
        recipe_sha256: of the stage's settings.
        row_index_sha256: of the rows the stage trains on, and of what they hold.
        initial_sha256: of the manifest of the checkpoint that the stage started from; empty where it did from none.
        shapes: of the trained parameters, by name.
        files: by name.
        guard: see `StepGuard.state`.
        picture_position_std: see `MarsConfig`: no parameter shows it, and with another the weights are another model's.
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

    def sha256(self) -> str:
        """Identifies the checkpoint: its manifest has the hashes of all that is in it."""
        values = asdict(self)
        if not self.picture_position_std:
            del values["picture_position_std"]  # manifests from before there was one keep their hash
        return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class RetentionPolicy:
    """Which checkpoints stay: the last `last`, and those of every `every_steps`-th step, 0 for none of them."""

    last: int
    every_steps: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint: the folder or URL it lies in with others, its own name, its manifest."""

    url: str
    name: str
    manifest: CheckpointManifest

    def __str__(self) -> str:
        return f"{self.url}/{self.name}"


def new_folder_name(step: int) -> str:
    """A folder name no other attempt uses."""
    return f"step-{step:08d}-{uuid.uuid4().hex[:8]}"


def rank_file(rank: int) -> str:
    """A rank's file in a checkpoint."""
    return f"rank-{rank:05d}.safetensors"


def write_manifest(storage: Storage, name: str, manifest: CheckpointManifest) -> None:
    """Closes the checkpoint. Call on one rank, after all have written."""
    text = json.dumps({"sha256": manifest.sha256()} | asdict(manifest), separators=(",", ":"))
    storage.write(f"{name}/{MANIFEST_FILE}", lambda path: path.write_text(text))


def complete_checkpoints(url: str, passed_over: list[str]) -> Iterator[Checkpoint]:
    """The checkpoints whose files are all there in full size, newest first; `passed_over` gets why others were not.

    Whether their content is what was written shows when it is read.
    """
    storage = open_storage(url)
    names = set(storage.names())
    for name in sorted(folders_of(names), key=_place, reverse=True):
        if f"{name}/{MANIFEST_FILE}" not in names:
            passed_over.append(f"{name}: {NEVER_FINISHED}")
            continue
        try:
            yield open_checkpoint(url, name)
        except InputError as error:
            passed_over.append(f"{name}: {error}")


def folders_of(names: Collection[str]) -> set[str]:
    """The folders of checkpoints, whole or not, among the files of a storage."""
    return {folder for name in names if NAME.fullmatch(folder := name.split("/")[0])}


def newest_complete(url: str) -> Checkpoint | None:
    """The first of `complete_checkpoints`."""
    return next(complete_checkpoints(url, []), None)


def open_checkpoint(url: str, name: str) -> Checkpoint:
    """Reads the manifest, and the sizes of the files.

    Raises:
        InputError: it is not readable, or a file is missing or of another size.
        OutageError: the storage does not answer, which says nothing of the checkpoint.
    """
    storage = open_storage(url)
    try:
        with storage.local(f"{name}/{MANIFEST_FILE}") as path:
            values = json.loads(path.read_text())
        written = values.pop("sha256")
        manifest = _manifest_of(values)
    except OutageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{MANIFEST_FILE} is not readable: {type(error).__name__}: {error}") from error
    if manifest.sha256() != written:
        raise InputError(f"{MANIFEST_FILE} has changed since it was written")
    if manifest.step != step_of(name):
        raise InputError(f"{MANIFEST_FILE} is of step {manifest.step}, and so of another checkpoint")
    if outside := [file for file in manifest.files if not is_inside(file) or "/" in file]:
        raise InputError(f"{MANIFEST_FILE} names {outside[0]!r}, which is no file of its folder")
    for file, record in manifest.files.items():
        try:
            size = storage.size(f"{name}/{file}") if storage.exists(f"{name}/{file}") else None
        except OutageError:
            raise
        except (OSError, InputError) as error:
            raise InputError(f"{file} is not readable: {error}") from error
        if size is None:
            raise InputError(f"{file} is missing")
        if size != record.size:
            raise InputError(f"{file} has {size} bytes, not {record.size}")
    return Checkpoint(url, name, manifest)


def finished_checkpoint(place: str | Path, allow_unfinished: bool = False) -> Checkpoint:
    """The checkpoint that `place` itself is, or the newest of the stage or of the folder of checkpoints that it is.

    Raises:
        InputError: there is none, it is damaged, or it is of a stage that did not finish, which may be allowed.
    """
    url = str(place).rstrip("/")
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


def remove_old(
    url: str, newest: str, kept: RetentionPolicy, removable: Collection[str], damaged: Collection[str] = frozenset()
) -> None:
    """Deletes the checkpoints beside `newest` that do not stay.

    Those of later steps go, too, where they were never finished. A finished one stays: it may have been out of reach
    only for a while.

    Args:
        url: folder or URL of the checkpoints.
        newest: just written.
        kept: which stay.
        removable: only these may go. What came since belongs to another attempt.
        damaged: they could not be read. They do not count among the last ones, and go once those are all newer.
    """
    storage = open_storage(url)
    names = set(storage.names())
    folders = sorted(folders_of(names), key=_place)
    step = step_of(newest)
    finished = [name for name in folders if f"{name}/{MANIFEST_FILE}" in names]
    closed = [name for name in finished if step_of(name) < step]
    sound = [name for name in closed if name not in damaged]
    last = [*sound[max(0, len(sound) - (kept.last - 1)) :], newest]
    oldest = step_of(last[0]) if len(last) >= kept.last else -1
    stay = {
        *last,
        *(name for name in finished if step_of(name) > step),
        *(name for name in closed if name in damaged and step_of(name) >= oldest),
        *(name for name in sound if kept.every_steps and step_of(name) % kept.every_steps == 0),
    }
    for name in folders:
        if name not in stay and name in removable:
            storage.delete_folder(name)


def step_of(name: str) -> int:
    """The step in a checkpoint's name."""
    return int(name.split("-")[1])


def _place(name: str) -> tuple[int, str]:
    return step_of(name), name


def block_hashes(path: Path) -> list[str]:
    """The sha256 of each block of a file, hexadecimal."""
    with path.open("rb") as file:
        return [block_hash(block) for block in iter(lambda: file.read(BLOCK_BYTES), b"")]


def block_hash(block: bytes) -> str:
    """The sha256 of one block, hexadecimal."""
    return hashlib.sha256(block).hexdigest()


def checkpoint_file(values: dict[str, Any]) -> CheckpointFile:
    """A file's record from what `asdict` made of it."""
    slices = {name: PlacedSlice(**placed) for name, placed in values["slices"].items()}
    return CheckpointFile(values["size"], values["blocks"], slices)


def _manifest_of(values: dict[str, Any]) -> CheckpointManifest:
    files = {name: checkpoint_file(record) for name, record in values["files"].items()}
    shapes = {name: tuple(shape) for name, shape in values["shapes"].items()}
    return CheckpointManifest(**values | {"files": files, "shapes": shapes})
