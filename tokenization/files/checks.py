"""Checks of names, locations and contents of files."""

import errno
import os
from pathlib import Path

from tokenization.errors import InputError
from tokenization.files.room import is_full


def is_inside(name: str) -> bool:
    """True if a relative name stays in its folder: no empty part, no `.`, no `..`."""
    return not {"", ".", ".."} & set(name.split("/"))


def check_apart(corpus: str, output: str) -> None:
    """Checks that a corpus and an output folder do not overlap.

    Raises:
        InputError: one is inside the other, or they are the same.
    """
    locations = []
    for url in (corpus, output):
        location = url if "://" in url else str(Path(url).resolve())
        locations.append(location.rstrip("/") + "/")
    if locations[0].startswith(locations[1]) or locations[1].startswith(locations[0]):
        raise InputError(f"the output {output!r} and the corpus {corpus!r} lie in each other; choose another --output")


NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


def unwritable(error: BaseException) -> str:
    """A line on a folder that takes no files: the disk is full, or permission is missing. Empty for any other error."""
    refused = isinstance(error, OSError) and error.errno in NO_PERMISSION
    if not refused and not is_full(error):
        return ""
    remedy = "get permission to write there" if refused else "make room there"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename!r}: {error.strerror}; {remedy}, or choose another folder"
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else os.strerror(errno.ENOSPC)
    return f"{reason}; {remedy}, or choose another folder"


def check_writable(folder: Path) -> None:
    """Checks that files can be made in `folder`, which may be missing so far.

    Raises:
        InputError: permission is missing, as on a read-only file system.
    """
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"{str(existing)!r} cannot be written; get permission to write there, or choose another folder"
        )


def check_whole(content: bytes, size: int, location: str) -> bytes:
    """Returns `content`, a part of a file, after a check of its length.

    Raises:
        InputError: it has fewer bytes than `size`.
    """
    if len(content) != size:
        raise InputError(f"{location!r} ends {size - len(content)} bytes too early")
    return content
