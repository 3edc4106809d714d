"""A `Storage` in an S3 bucket, or in another service with an S3 interface."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

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
from tokenization.files.checks import check_whole, is_inside

S3_SCHEME = "s3://"
ATTEMPTS = 10
"""Attempts at a request or a part of a file, with growing pauses, before S3 counts as down: about two minutes."""
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
"""S3's error codes for a conditional write whose condition does not hold."""


class S3Folder:
    """The files under a prefix of a bucket. Whole files are transferred through a local temporary folder."""

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

    def names(self, hidden: bool = False) -> list[str]:
        return sorted(self._listed(hidden))

    def versions(self) -> dict[str, str]:
        """The ETag of each file."""
        return self._listed(hidden=False)

    def _listed(self, hidden: bool) -> dict[str, str]:
        with self._explained():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            items = [item for page in pages for item in page.get("Contents", ())]
        tags = {item["Key"].removeprefix(self._prefix): item["ETag"] for item in items}
        if hidden:  # a key that ends with a slash is what consoles show as a folder
            return {name: tag for name, tag in tags.items() if not name.endswith("/")}
        return {name: tag for name, tag in tags.items() if is_inside(name) and "/." not in f"/{name}"}

    def exists(self, name: str) -> bool:
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
        with tempfile.TemporaryDirectory(prefix="mars-s3-") as folder:
            path = Path(folder) / Path(name).name
            with self._explained(name):
                self._client.download_file(self._bucket, self._prefix + name, str(path), Config=self._transfer)
            yield path

    def size(self, name: str) -> int:
        with self._explained(name):
            return int(self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)["ContentLength"])

    def read(self, name: str, start: int, stop: int) -> bytes:
        with self._explained(name):
            content, _ = self._fetched(name, Range=f"bytes={start}-{stop - 1}")
        return check_whole(content, stop - start, f"{self}/{name}")

    def _fetched(self, name: str, **how: str) -> tuple[bytes, str]:
        """An object's content and its ETag. Repeats a request whose answer was cut off, which boto3 itself does not."""
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
        """Uploads the file. A multipart upload is visible under its name only once it is complete."""
        with tempfile.TemporaryDirectory(prefix="mars-s3-") as folder:
            path = Path(folder) / Path(name).name
            fill(path)
            with self._explained(name):
                self._client.upload_file(str(path), self._bucket, self._prefix + name, Config=self._transfer)

    def text(self, name: str) -> str | None:
        with self._explained(name):
            return self._text_of(name)[0]

    def swap(self, name: str, expected: str | None, text: str) -> bool:
        """Uses a conditional write: S3 refuses the second of two concurrent ones."""
        location = {"Bucket": self._bucket, "Key": self._prefix + name}
        with self._explained(name):
            now, tag = self._text_of(name)
            if now != expected:
                return False
            condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
            if not self._put_if(location, condition, text):
                # A request that got an error and was repeated may have been carried out nevertheless.
                return self._text_of(name)[0] == text
        return True

    def refuses_conditional_writes(self, name: str) -> bool:
        """True if the service refuses a write whose condition does not hold, as `swap` needs. It writes and removes a
        small file."""
        location = {"Bucket": self._bucket, "Key": self._prefix + name}
        with self._explained(name):
            self._client.put_object(**location, Body=b"first")
            _, stale = self._text_of(name)
            refused = not self._put_if(location, {"IfNoneMatch": "*"}, "second")
            self._client.put_object(**location, Body=b"third")
            refused = refused and not self._put_if(location, {"IfMatch": stale}, "fourth")
            self._client.delete_object(**location)
        return refused

    def _put_if(self, location: dict[str, str], condition: Mapping[str, str | None], text: str) -> bool:
        """Writes a small file on a condition. Returns False if the service refused it."""
        try:
            self._client.put_object(**location, **condition, Body=text.encode())
        except ClientError as error:
            if error.response["Error"]["Code"] not in REFUSED:
                raise
            return False
        return True

    def _text_of(self, name: str) -> tuple[str | None, str | None]:
        """A small file's content and its ETag; None if there is no such file."""
        try:
            content, tag = self._fetched(name)
        except self._client.exceptions.NoSuchKey:
            return None, None
        return content.decode(), tag

    def delete_folder(self, name: str) -> None:
        with self._explained(name):
            prefix = f"{self._prefix}{name}/"
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            for key in [item["Key"] for page in pages for item in page.get("Contents", ())]:
                self._client.delete_object(Bucket=self._bucket, Key=key)

    def delete(self, name: str) -> None:
        with self._explained(name):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    @contextmanager
    def _explained(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error) as error:
            location = f"{S3_SCHEME}{self._bucket}/{self._prefix}{name}"
            kind = OutageError if _is_outage(error) else InputError
            raise kind(f"{location!r}: {error}; check the name, the credentials and AWS_ENDPOINT_URL") from error


def _is_outage(error: Exception) -> bool:
    """True if the service is at fault, and not the request."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return bool(status >= 500 or status == 429 or error.response.get("Error", {}).get("Code") == "SlowDown")
    kinds = (HTTPClientError, IncompleteReadError, ResponseStreamingError, RetriesExceededError)
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds)
