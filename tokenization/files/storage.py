"""Folders of files, on a file system or in an S3 bucket, behind one face."""

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from boto3 import Session
from boto3.exceptions import Boto3Error, RetriesExceededError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from tokenization.errors import InputError, OutageError

S3_SCHEME = "s3://"
ATTEMPTS = 10
"""Of a request or a part of a file, with growing pauses, before S3 counts as gone: about two minutes."""
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
"""What S3 answers where the condition of a write does not hold."""


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

    def versions(self) -> dict[str, str]:
        """See `Storage`. Size and time of change."""
        states = {name: (self.folder / name).stat() for name in self.names()}
        return {name: f"{state.st_size} {state.st_mtime_ns}" for name, state in states.items()}

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

    def size(self, name: str) -> int:
        """See `Storage`."""
        with self.local(name) as path:
            return path.stat().st_size

    def read(self, name: str, start: int, stop: int) -> bytes:
        """See `Storage`."""
        with self.local(name) as path, path.open("rb") as file:
            file.seek(start)
            return _whole(file.read(stop - start), stop - start, str(path))

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        """See `Storage`."""
        write_atomically(self._path(name), fill)

    def text(self, name: str) -> str | None:
        """See `Storage`."""
        path = self._path(name)
        return path.read_text() if path.exists() else None

    def swap(self, name: str, expected: str | None, text: str) -> bool:
        """See `Storage`. A lock beside the file keeps others out, on a network's file system if that has locks."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.text(name) != expected:
                return False
            write_atomically(path, lambda partial: partial.write_text(text))
        return True

    def delete_folder(self, name: str) -> None:
        """See `Storage`."""
        path = self._path(name)
        if path.exists():
            shutil.rmtree(path)

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
        return sorted(self.versions())

    def versions(self) -> dict[str, str]:
        """See `Storage`. S3's tags."""
        with self._explained():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            items = [item for page in pages for item in page.get("Contents", ())]
        tags = {item["Key"].removeprefix(self._prefix): item["ETag"] for item in items}
        return {name: tag for name, tag in tags.items() if is_inside(name) and "/." not in f"/{name}"}

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

    def size(self, name: str) -> int:
        """See `Storage`."""
        with self._explained(name):
            return int(self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)["ContentLength"])

    def read(self, name: str, start: int, stop: int) -> bytes:
        """See `Storage`."""
        with self._explained(name):
            content, _ = self._fetched(name, Range=f"bytes={start}-{stop - 1}")
        return _whole(content, stop - start, f"{self}/{name}")

    def _fetched(self, name: str, **how: str) -> tuple[bytes, str]:
        """An object's content and its tag. An answer that was cut off is asked for again: boto3 itself does not."""
        for attempt in range(ATTEMPTS):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name, **how)
            try:
                return answer["Body"].read(), answer["ETag"]
            except (IncompleteReadError, ResponseStreamingError, ReadTimeoutError):
                if attempt + 1 == ATTEMPTS:
                    raise
                time.sleep(min(2.0**attempt / 10, 20.0))
        raise AssertionError("the last attempt returns or raises")

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        """See `Storage`. An upload in parts shows under its name only once it is complete."""
        with tempfile.TemporaryDirectory(prefix="mars-s3-") as folder:
            path = Path(folder) / Path(name).name
            fill(path)
            with self._explained(name):
                self._client.upload_file(str(path), self._bucket, self._prefix + name, Config=self._transfer)

    def text(self, name: str) -> str | None:
        """See `Storage`."""
        with self._explained(name):
            return self._text_of(name)[0]

    def swap(self, name: str, expected: str | None, text: str) -> bool:
        """See `Storage`. S3 itself refuses what comes second."""
        place: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + name}
        with self._explained(name):
            now, tag = self._text_of(name)
            if now != expected:
                return False
            condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
            try:
                self._client.put_object(**place, **condition, Body=text.encode())
            except ClientError as error:
                if error.response["Error"]["Code"] not in REFUSED:
                    raise
                # A request that was answered with an error, and repeated, may have been carried out all the same.
                return self._text_of(name)[0] == text
        return True

    def _text_of(self, name: str) -> tuple[str | None, str | None]:
        """A small file's content and its tag; None where there is none."""
        try:
            content, tag = self._fetched(name)
        except self._client.exceptions.NoSuchKey:
            return None, None
        return content.decode(), tag

    def delete_folder(self, name: str) -> None:
        """See `Storage`."""
        with self._explained(name):
            prefix = f"{self._prefix}{name}/"
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            for key in [item["Key"] for page in pages for item in page.get("Contents", ())]:
                self._client.delete_object(Bucket=self._bucket, Key=key)

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
            kind = OutageError if _is_outage(error) else InputError
            raise kind(f"{place!r}: {error}; check the name, the credentials and AWS_ENDPOINT_URL") from error


def _is_outage(error: Exception) -> bool:
    """Whether the service is at fault, and not what it was asked for."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or error.response.get("Error", {}).get("Code") == "SlowDown"
    kinds = (HTTPClientError, IncompleteReadError, ResponseStreamingError, RetriesExceededError)
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds)


def _whole(content: bytes, size: int, place: str) -> bytes:
    if len(content) != size:
        raise InputError(f"{place!r} ends {size - len(content)} bytes too early")
    return content


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
