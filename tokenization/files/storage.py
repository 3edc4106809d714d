"""Folders of files, on a file system or in an S3 bucket, behind one interface."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tokenization.errors import InputError
from tokenization.files.local_folder import LocalFolder
from tokenization.files.s3_folder import S3_SCHEME, S3Folder


class Storage(Protocol):
    """A folder: names are paths relative to it, with slashes. It may not exist yet. Pickles."""

    def names(self) -> list[str]:
        """All files in it, sorted; hidden ones and what is half-written left out."""

    def versions(self) -> dict[str, str]:
        """Something for each of `names` that is another one when the file has changed."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def local(self, name: str) -> Any:
        """Context manager: the path of the file on this machine, or of a copy that goes away with it.

        Raises:
            InputError: there is no such file, or it cannot be read.
        """

    def size(self, name: str) -> int:
        """Of a file, in bytes.

        Raises:
            InputError: there is no such file.
        """

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Some bytes of a file.

        Raises:
            InputError: there is no such file, or it ends before.
        """

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        """Has `fill` write a file and puts it here under `name`: whole or not at all."""

    def text(self, name: str) -> str | None:
        """A small file's content; None where there is none."""

    def swap(self, name: str, expected: str | None, text: str) -> bool:
        """Puts `text` in place of a small file's content, if that is still `expected`; None: if there is no such file.

        Returns:
            Whether it did. Of several that try at once one does.
        """

    def delete_folder(self, name: str) -> None:
        """Removes all files whose names begin with `name` and a slash, hidden ones too."""

    def delete(self, name: str) -> None:
        """Removes the file, if it is there."""


def open_storage(url: str | Path) -> Storage:
    """A local folder, or `s3://bucket/prefix` with AWS's usual chain of credentials and AWS_ENDPOINT_URL.

    Raises:
        InputError: another scheme, or no bucket.
    """
    text = str(url)
    if text.startswith(S3_SCHEME):
        bucket, _, prefix = text.removeprefix(S3_SCHEME).partition("/")
        if not bucket:
            raise InputError(f"{text!r} names no bucket; write s3://bucket/prefix")
        return S3Folder(bucket, prefix.strip("/"))
    if "://" in text:
        raise InputError(f"{text!r} is neither a path nor s3://bucket/prefix, which is all that is supported")
    return LocalFolder(Path(text).absolute())
