"""Checkpoints that count only once their manifest is written, and are verified before use."""

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class CheckpointManifest:
    """What a finished checkpoint holds.

    Attributes:
        step: optimizer steps done.
        samples: samples seen.
        world_size: ranks that saved it.
        finished: it is its stage's last.
        base_sha256: of the frozen language expert, which the checkpoint does not hold.
        recipe_sha256: of the stage's settings.
        row_index_sha256: of the rows the stage trains on.
        files: size in bytes and sha256 of every file, by relative path.
    """

    step: int
    samples: int
    world_size: int
    finished: bool
    base_sha256: str
    recipe_sha256: str
    row_index_sha256: str
    files: dict[str, tuple[int, str]]


def new_folder_name(step: int) -> str:
    """A folder name no other attempt uses."""
    return f"step-{step:08d}-{uuid.uuid4().hex[:8]}"


def write_manifest(folder: Path, **fields: Any) -> None:
    """Closes the checkpoint in `folder`. Call on one rank, after all have written."""
    files = {
        path.relative_to(folder).as_posix(): (path.stat().st_size, file_sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    partial = folder / f".{MANIFEST_FILE}"
    partial.write_text(json.dumps(asdict(CheckpointManifest(files=files, **fields)), indent=1))
    os.replace(partial, folder / MANIFEST_FILE)


def newest_verified(checkpoints: Path) -> tuple[Path, CheckpointManifest, list[str]] | None:
    """The newest checkpoint whose files are all there and unchanged, and why newer ones were passed over."""
    passed_over = []
    for folder in sorted(checkpoints.glob("step-*"), reverse=True) if checkpoints.exists() else []:
        if not (folder / MANIFEST_FILE).exists():
            passed_over.append(f"{folder.name}: no {MANIFEST_FILE}, it was never finished")
            continue
        manifest = read_manifest(folder)
        damage = _damage(folder, manifest)
        if damage is None:
            return folder, manifest, passed_over
        passed_over.append(f"{folder.name}: {damage}")
    return None


def finished_checkpoint(folder: Path, allow_unfinished: bool = False) -> tuple[Path, CheckpointManifest]:
    """A stage's last checkpoint, or the checkpoint that `folder` itself is.

    Raises:
        InputError: there is none, it is damaged, or it is of a stage that did not finish, which may be allowed.
    """
    if (folder / MANIFEST_FILE).exists():
        manifest = read_manifest(folder)
        if damage := _damage(folder, manifest):
            raise InputError(f"checkpoint {str(folder)!r} is damaged: {damage}; name another")
    else:
        found = newest_verified(folder / "checkpoints")
        if found is None:
            raise InputError(f"{str(folder)!r} has no checkpoint; run jobs/train_stage.py for it first")
        folder, manifest, _ = found
    if not (manifest.finished or allow_unfinished):
        raise InputError(
            f"{str(folder)!r} is of a stage that stopped at step {manifest.step}; finish it with jobs/train_stage.py, "
            "or start from it as it is with --allow-unfinished"
        )
    return folder, manifest


def read_manifest(folder: Path) -> CheckpointManifest:
    """The manifest of a finished checkpoint."""
    values = json.loads((folder / MANIFEST_FILE).read_text())
    values["files"] = {name: (size, digest) for name, (size, digest) in values["files"].items()}
    return CheckpointManifest(**values)


def remove_all_but(newest: Path, keep: int) -> None:
    """Deletes the checkpoints beside `newest` but the `keep` last ones up to it.

    Those of later steps go first: a run that has come to write `newest` passed over them, as damaged or unfinished.
    """
    folders = sorted(newest.parent.glob("step-*"))
    step = _step_of(newest)
    before = [folder for folder in folders if _step_of(folder) < step and (folder / MANIFEST_FILE).exists()]
    kept = {newest, *before[len(before) - (keep - 1) :]}
    for folder in folders:
        if folder not in kept:
            shutil.rmtree(folder)


def _step_of(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(folder: Path, manifest: CheckpointManifest) -> str | None:
    for name, (size, digest) in manifest.files.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if file_sha256(path) != digest:
            return f"{name} has changed"
    return None
