"""What to say of a full disk: the path, and how much room it has and needs."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_ROOM_WORDS = ("no space left on device", "os error 28", "disk quota exceeded", "disk is full")
"""What libraries say that raise errors of their own: safetensors, torch, Arrow, and Ray."""


def is_full(error: BaseException) -> bool:
    """True if an error, of any library, says that a disk is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in NO_ROOM
    text = str(error).lower()
    return any(words in text for words in NO_ROOM_WORDS)


@contextmanager
def naming_full_disk(path: Path, partial: Path | None = None, needed_bytes: int = 0) -> Iterator[None]:
    """Gives an error about a full disk the path, the room that is free, and the room that is needed.

    Args:
        path: the file or folder that is written in the enclosed block.
        partial: where it is written first, and removed on an error; None for `path` itself, of which nothing is
            removed.
        needed_bytes: the bytes to write, if they are known.

    Raises:
        OSError: with `filename`; the disk is full. Other errors are not changed.
    """
    try:
        yield
    except Exception as error:
        if not is_full(error) or (isinstance(error, OSError) and error.filename):
            raise
        free = _free(path) + (_size(partial) if partial else 0)
        needed = f"{needed_bytes:,}" if needed_bytes else "more"
        raise OSError(
            errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {free:,} bytes are free, and it needs {needed}", str(path)
        ) from error


def fullest(folders: Sequence[Path]) -> Path:
    """The one of these folders whose disk has least room."""
    return min(folders, key=_free)


def _free(path: Path) -> int:
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return path.stat().st_size if path.exists() else 0
