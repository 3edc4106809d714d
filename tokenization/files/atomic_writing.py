"""Files on disk that are written whole or not at all, whatever happens to the process or the machine."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, fill: Callable[[Path], object]) -> None:
    """Has `fill` write a file beside `path` and moves it there: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}")  # not longer than the name it will have
    try:
        fill(partial)
        _to_disk(partial)
        os.replace(partial, path)
        _to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def append_whole(path: Path, text: str) -> None:
    """Appends lines to a file, all of them or nothing. Behind a line that a crash of the machine left torn, they begin
    with a new one.

    Raises:
        OSError: it cannot be written, as on a full disk; the file is as it was.
    """
    content = text.encode()
    with path.open("a+b", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        if start:
            file.seek(start - 1)
            if file.read(1) != b"\n":
                content = b"\n" + content
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            file.truncate(start)
            raise


def _to_disk(path: Path) -> None:
    """Waits until a file, or what a folder lists, would survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
