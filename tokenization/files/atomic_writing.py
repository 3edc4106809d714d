"""Atomic writes to files on disk, which survive a crash of the process or the machine."""

import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenization.files.room import naming_full_disk

if TYPE_CHECKING:
    from PIL.Image import Image

PARTIAL = re.compile(r"[.][0-9a-f]{32}")
"""The name of a file that `write_atomically` is writing."""


def write_atomically(path: Path, fill: Callable[[Path], object]) -> None:
    """Lets `fill` write a temporary file in the folder of `path`, then moves it to `path`. Atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}")  # not longer than the final name
    try:
        with naming_full_disk(path, partial):
            fill(partial)
            _to_disk(partial)
        os.replace(partial, path)
        _to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def partial_files(folder: Path) -> list[Path]:
    """Returns what killed calls of `write_atomically` left below a folder, and no hidden files of others."""
    return [path for path in folder.rglob(".*") if PARTIAL.fullmatch(path.name) and path.is_file()]


def write_png(path: Path, picture: "Image") -> None:
    """Writes a picture as a PNG. Atomic."""
    write_atomically(path, lambda partial: picture.save(partial, "PNG"))


def append_whole(path: Path, text: str) -> None:
    """Appends lines to a file, all of them or none. If a crash left the last line incomplete, starts on a new line.

    Raises:
        OSError: the file cannot be written, as on a full disk; it is unchanged.
    """
    content = text.encode()
    with path.open("a+b", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        if start:
            file.seek(start - 1)
            if file.read(1) != b"\n":
                content = b"\n" + content
        try:
            with naming_full_disk(path, needed_bytes=len(content)):
                while content:
                    content = content[file.write(content) :]
        except OSError:
            file.truncate(start)
            raise


def _to_disk(path: Path) -> None:
    """Waits until a file, or a folder's list of files, would survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
