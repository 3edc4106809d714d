"""Folders of files, on a file system or in an S3 bucket, behind one face."""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from boto3 import Session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tokenization.errors import InputError

S3_SCHEME = "s3://"
ATTEMPTS = 10
"""Of a request or a part of a file, with growing pauses, before S3 counts as gone: about two minutes."""


class Storage(Protocol):
    """A folder: names are paths relative to it, with slashes. It may not exist yet. Pickles."""

    def names(self) -> list[str]:
        """All files in it, sorted; hidden ones and what is half-written left out."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def local(self, name: str) -> Any:
        """Context manager: the path of the file on this machine, or of a copy that goes away with it.

        Raises:
            InputError: there is no such file, or it cannot be read.
        """

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        """Has `fill` write a file and puts it here under `name`: whole or not at all."""

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


class LocalFolder:
    """A folder of a file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def names(self) -> list[str]:
        """See `Storage`. Links are followed, but into no folder twice; devices and pipes are left out."""
        found = []
        visited: set[tuple[int, int]] = set()
        for folder, folders, files in os.walk(self.folder, followlinks=True):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                folders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            place = Path(folder)
            paths = [place / name for name in files if not name.startswith(".")]
            found += [path.relative_to(self.folder).as_posix() for path in paths if path.is_file() or path.is_symlink()]
        return sorted(found)

    def exists(self, name: str) -> bool:
        """See `Storage`."""
        return self._path(name).is_file()

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """See `Storage`."""
        path = self._path(name)
        if not path.is_file():
            raise InputError(f"{str(path)!r} does not exist, or is no file")
        yield path

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        """See `Storage`."""
        write_atomically(self._path(name), fill)

    def delete(self, name: str) -> None:
        """See `Storage`."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if not is_inside(name):
            raise InputError(f"{name!r} is no name inside of {str(self.folder)!r}; rename it")
        return self.folder / name


class S3Folder:
    """What lies under a prefix of a bucket. Files come and go whole, through a temporary folder of this machine."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""

    def __str__(self) -> str:
        return f"{S3_SCHEME}{self._bucket}/{self._prefix}".rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_client"}

    @cached_property
    def _client(self) -> Any:
        retries = {"mode": "standard", "max_attempts": ATTEMPTS}
        config = Config(retries=retries, connect_timeout=10, read_timeout=60, tcp_keepalive=True)
        return Session().client("s3", config=config)

    @property
    def _transfer(self) -> TransferConfig:
        return TransferConfig(num_download_attempts=ATTEMPTS)

    def names(self) -> list[str]:
        """See `Storage`."""
        with self._explained():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            keys = [item["Key"].removeprefix(self._prefix) for page in pages for item in page.get("Contents", ())]
        return sorted(key for key in keys if is_inside(key) and "/." not in f"/{key}")

    def exists(self, name: str) -> bool:
        """See `Storage`."""
        try:
            with self._explained():
                self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        except InputError as error:
            if isinstance(error.__cause__, ClientError) and error.__cause__.response["Error"]["Code"] == "404":
                return False
            raise
        return True

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """See `Storage`."""
        with tempfile.TemporaryDirectory(prefix="mars-s3-") as folder:
            path = Path(folder) / Path(name).name
            with self._explained(name):
                self._client.download_file(self._bucket, self._prefix + name, str(path), Config=self._transfer)
            yield path

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        """See `Storage`. An upload in parts shows under its name only once it is complete."""
        with tempfile.TemporaryDirectory(prefix="mars-s3-") as folder:
            path = Path(folder) / Path(name).name
            fill(path)
            with self._explained(name):
                self._client.upload_file(str(path), self._bucket, self._prefix + name, Config=self._transfer)

    def delete(self, name: str) -> None:
        """See `Storage`."""
        with self._explained(name):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    @contextmanager
    def _explained(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error) as error:
            place = f"{S3_SCHEME}{self._bucket}/{self._prefix}{name}"
            raise InputError(f"{place!r}: {error}; check the name, the credentials and AWS_ENDPOINT_URL") from error


def is_inside(name: str) -> bool:
    """Whether a relative name stays in its folder: no empty part, no `.`, no `..`."""
    return not {"", ".", ".."} & set(name.split("/"))


def check_apart(corpus: str, output: str) -> None:
    """Keeps what is read and what is written from mixing.

    Raises:
        InputError: one lies in the other, or they are the same.
    """
    places = []
    for url in (corpus, output):
        place = url if "://" in url else str(Path(url).resolve())
        places.append(place.rstrip("/") + "/")
    if places[0].startswith(places[1]) or places[1].startswith(places[0]):
        raise InputError(f"the output {output!r} and the corpus {corpus!r} lie in each other; choose another --output")


def write_atomically(path: Path, fill: Callable[[Path], object]) -> None:
    """Has `fill` write a file beside `path` and moves it there: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}")  # not longer than the name it will have
    try:
        fill(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
