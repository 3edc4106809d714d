"""Reads the files of a corpus that its rows name."""

import posixpath
from dataclasses import dataclass

from tokenization.corpora.names import spellings
from tokenization.corpora.samples import readable
from tokenization.errors import InputError, OutageError
from tokenization.files.checks import is_inside
from tokenization.files.storage import Storage

Problem = tuple[str, str] | tuple[()]
"""The (reason, message) why something cannot be read; empty if it can."""


@dataclass(frozen=True)
class NamedFile:
    """A file that a row names: its bytes, or the problem of its sample, and its name in the storage if it is there."""

    content: bytes | None
    problem: Problem = ()
    name: str = ""


def read_picture(storage: Storage, folder: str, file_name: str, max_bytes: int) -> NamedFile:
    """Reads a picture.

    Args:
        storage: the corpus. Nothing outside of it is read.
        folder: the folder in it that `file_name` starts from.
        file_name: with slashes or backslashes, and in either of Unicode's forms.
        max_bytes: a file of more is not read.
    """
    shown = readable(file_name)
    try:
        for form in spellings(file_name):
            name = posixpath.normpath(posixpath.join(folder, form))
            if is_inside(name) and storage.exists(name):
                return _read(storage, name, max_bytes)
        return NamedFile(None, ("no picture", f"{shown!r} is not a file of this folder"))
    except (OSError, ValueError) as error:  # no permission, or an invalid file name
        if isinstance(error, OutageError) or (isinstance(error, InputError) and error.__cause__):
            raise  # the storage itself fails
        return NamedFile(None, ("no picture", f"{shown!r} cannot be read: {error}"))


def _read(storage: Storage, name: str, max_bytes: int) -> NamedFile:
    with storage.local(name) as path:
        size = path.stat().st_size
        if size > max_bytes:
            message = f"{readable(name)!r} has {size} bytes, more than max_bytes {max_bytes}"
            return NamedFile(None, ("bad member", message), name)
        return NamedFile(path.read_bytes(), (), name)
