"""Folders of files, on a file system or in a bucket, behind one interface."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tokenization.errors import InputError
from tokenization.files.azure_container import AzureContainer
from tokenization.files.gcs_bucket import GcsBucket
from tokenization.files.listing import Listing
from tokenization.files.local_folder import LocalFolder
from tokenization.files.object_folder import ObjectFolder
from tokenization.files.object_service import ObjectService
from tokenization.files.s3_bucket import S3Bucket

BY_SCHEME: dict[str, Callable[[str], ObjectService]] = {
    service.scheme: service for service in (S3Bucket, GcsBucket, AzureContainer)
}


class Storage(Protocol):
    """A folder. Names are relative paths with slashes. It may not exist yet. It can be pickled."""

    def names(self, hidden: bool = False) -> list[str]:
        """All files in it, sorted, without hidden and incomplete ones. With `hidden` those, too, and whatever else has
        a name there, such as devices."""

    def listing(self, without: Sequence[str] = ()) -> Listing:
        """The files and all else in it. Folders `without`, each given with a slash at its end, are left out."""

    def versions(self) -> dict[str, str]:
        """A version for each of `names`, which changes whenever the file changes."""

    def sizes(self) -> dict[str, int]:
        """The bytes of each of `names`, by a listing alone."""

    def exists(self, name: str) -> bool:
        """True if there is such a file."""

    def local(self, name: str) -> Any:
        """Context manager that gives the path of the local file, or of a temporary copy.

        Raises:
            InputError: there is no such file, or it cannot be read.
        """

    def size(self, name: str) -> int:
        """Size of a file in bytes.

        Raises:
            InputError: there is no such file.
        """

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Returns bytes `start` to `stop` of a file.

        Raises:
            InputError: there is no such file, or it ends before.
        """

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        """Lets `fill` write a file, and stores it under `name`. Atomic."""

    def text(self, name: str) -> str | None:
        """Returns a small file's content, or None if there is no such file."""

    def swap(self, name: str, expected: str | None, text: str) -> bool:
        """Replaces a small file's content by `text` if it is still `expected` (None: if there is no such file).

        Returns:
            True if it did. If several try at once, only one succeeds.
        """

    def delete_folder(self, name: str) -> None:
        """Removes all files whose names begin with `name` and a slash, hidden ones too."""

    def delete(self, name: str) -> None:
        """Removes the file if it exists."""


def open_storage(url: str | Path) -> Storage:
    """Opens a local folder, or a prefix of a bucket: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.

    Raises:
        InputError: another scheme, or no bucket.
    """
    text = str(url)
    scheme, is_url, place = text.partition("://")
    if not is_url:
        return LocalFolder(Path(text).expanduser().absolute())
    service = BY_SCHEME.get(f"{scheme}://")
    if service is None:
        raise InputError(f"{text!r} is neither a path nor in one of {', '.join(BY_SCHEME)}")
    bucket, _, prefix = place.partition("/")
    if not bucket:
        raise InputError(f"{text!r} names no bucket; write {scheme}://bucket/prefix")
    return ObjectFolder(service(bucket), prefix.strip("/"))
