"""A `Storage` in an S3 bucket, or in another service with an S3 interface."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import filterfalse
from pathlib import Path
from typing import Any, TypeVar

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
from botocore.exceptions import ConnectionError as UnreachableError

from tokenization.errors import InputError, OutageError
from tokenization.files.checks import check_whole, is_inside
from tokenization.files.listing import Listing
from tokenization.files.room import naming_full_disk
from tokenization.files.s3_listing import ParallelListing, take_items
from tokenization.patience import outage_s
from tokenization.waiting import Wait

S3_SCHEME = "s3://"
T = TypeVar("T")
ATTEMPTS = 3
"""Attempts of boto3 at a request or a part of a file, with growing pauses: some seconds. Then `_answered` begins anew,
until the service has been away for `outage_s`."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
CONFIG = Config(
    retries={"mode": "standard", "max_attempts": ATTEMPTS}, connect_timeout=10, read_timeout=60, tcp_keepalive=True
)
CLIENTS = ("_client", "_lister", "_probe")
PROBE_S = 5.0
"""Seconds that `absence` waits for an answer."""
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
"""S3's error codes for a conditional write whose condition does not hold."""


class S3Folder:
    """The files under a prefix of a bucket. Whole files are transferred through a local temporary folder."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""

    def __str__(self) -> str:
        return f"{S3_SCHEME}{self.bucket}/{self._prefix}".rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in CLIENTS}

    @cached_property
    def _client(self) -> Any:
        return Session().client("s3", config=CONFIG)

    @cached_property
    def _probe(self) -> Any:
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=PROBE_S, read_timeout=PROBE_S)
        return Session().client("s3", config=config)

    def absence(self) -> str:
        """Why the service does not answer now, after one request; empty if it does."""
        try:
            self._probe.list_objects_v2(Bucket=self.bucket, Prefix=self._prefix, MaxKeys=1)
        except (BotoCoreError, ClientError) as error:
            return str(error) if _is_outage(error) else ""
        return ""

    @cached_property
    def _lister(self) -> Any:
        client = Session().client("s3", config=CONFIG)
        client.meta.events.register("before-parse.*", take_items)  # botocore's own handlers, which parse a page, follow
        return client

    @property
    def _transfer(self) -> TransferConfig:
        return TransferConfig(num_download_attempts=ATTEMPTS)

    def names(self, hidden: bool = False) -> list[str]:
        found = self.listing()
        return sorted([*found.names, *found.others]) if hidden else found.names

    def listing(self, without: Sequence[str] = ()) -> Listing:
        """A key that ends with a slash is what consoles show as a folder, and left out."""
        keys = self._taken(lambda item: str(item["Key"]), without)
        names = [key[len(self._prefix) :] for key in keys if not key.endswith("/")]
        others = set(filterfalse(_is_visible, names))
        return Listing(sorted(name for name in names if name not in others), sorted(others))

    def versions(self) -> dict[str, str]:
        """The ETag of each file."""
        tags = self._taken(lambda item: (item["Key"][len(self._prefix) :], item["ETag"]))
        return {name: tag for name, tag in sorted(tags) if _is_visible(name)}

    def sizes(self) -> dict[str, int]:
        items = self._answered(lambda: self._items(self._prefix))
        sizes = {str(item["Key"])[len(self._prefix) :]: int(item["Size"]) for item in items}
        return {name: size for name, size in sizes.items() if _is_visible(name)}

    def _taken(self, take: Callable[[dict[str, Any]], T], without: Sequence[str] = ()) -> list[T]:
        """What is kept of each object under the prefix, in any order."""

        def ask(after: str) -> tuple[list[dict[str, Any]], bool]:
            start = {"StartAfter": after} if after else {}
            page = self._lister.list_objects_v2(Bucket=self.bucket, Prefix=self._prefix, **start)
            return page.get("Contents", []), page["IsTruncated"]

        left_out = [self._prefix + folder for folder in without]
        return self._answered(lambda: ParallelListing(ask, take, left_out).all())

    def exists(self, name: str) -> bool:
        try:
            self._answered(lambda: self._client.head_object(Bucket=self.bucket, Key=self._prefix + name))
        except InputError as error:
            if isinstance(error.__cause__, ClientError) and error.__cause__.response["Error"]["Code"] == "404":
                return False
            raise
        return True

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="mars-s3-") as folder:
            path = Path(folder) / Path(name).name
            location = (self.bucket, self._prefix + name)
            with naming_full_disk(path, path):
                self._answered(lambda: self._client.download_file(*location, str(path), Config=self._transfer), name)
            yield path

    def size(self, name: str) -> int:
        key = self._prefix + name
        return int(self._answered(lambda: self._client.head_object(Bucket=self.bucket, Key=key), name)["ContentLength"])

    def read(self, name: str, start: int, stop: int) -> bytes:
        content, _ = self._answered(lambda: self._fetched(name, Range=f"bytes={start}-{stop - 1}"), name)
        return check_whole(content, stop - start, f"{self}/{name}")

    def _fetched(self, name: str, **how: str) -> tuple[bytes, str]:
        """An object's content and its ETag. Repeats a request whose answer was cut off, which boto3 itself does not."""
        for attempt in range(ATTEMPTS):
            answer = self._client.get_object(Bucket=self.bucket, Key=self._prefix + name, **how)
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
            with naming_full_disk(path, path):
                fill(path)
            location = (self.bucket, self._prefix + name)
            self._answered(lambda: self._client.upload_file(str(path), *location, Config=self._transfer), name)

    def text(self, name: str) -> str | None:
        return self._answered(lambda: self._text_of(name), name)[0]

    def swap(self, name: str, expected: str | None, text: str) -> bool:
        """Uses a conditional write: S3 refuses the second of two concurrent ones."""
        location, asked = {"Bucket": self.bucket, "Key": self._prefix + name}, False

        def ask() -> bool:
            nonlocal asked
            again, asked = asked, True
            now, tag = self._text_of(name)
            if now != expected:
                return again and now == text
            condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
            if not self._put_if(location, condition, text):
                # A request that got an error and was repeated may have been carried out nevertheless.
                return self._text_of(name)[0] == text
            return True

        return self._answered(ask, name)

    def refuses_conditional_writes(self, name: str) -> bool:
        """True if the service refuses a write whose condition does not hold, as `swap` needs. It writes and removes a
        small file."""
        location = {"Bucket": self.bucket, "Key": self._prefix + name}
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
        def ask() -> None:
            for item in self._items(f"{self._prefix}{name}/"):
                self._client.delete_object(Bucket=self.bucket, Key=item["Key"])

        self._answered(ask, name)

    def delete(self, name: str) -> None:
        self._answered(lambda: self._client.delete_object(Bucket=self.bucket, Key=self._prefix + name), name)

    def _items(self, prefix: str) -> list[dict[str, Any]]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item for page in pages for item in page.get("Contents", ())]

    def _answered(self, ask: Callable[[], T], name: str = "") -> T:
        """Repeats a request, which may be carried out more than once, until the service answers.

        Raises:
            InputError: the service refuses it.
            OutageError: it has not answered for `outage_s`.
        """
        wait, began, pause_s, limit_s = Wait(), time.monotonic(), FIRST_PAUSE_S, outage_s()
        while True:
            try:
                with self._explained(name):
                    return ask()
            except OutageError as error:
                left_s = began + limit_s - time.monotonic()
                if left_s <= 0:
                    raise OutageError(f"{error} (no answer for {_minutes(limit_s)})") from error
                wait.still(f"{self}, at most {_minutes(limit_s)}: {error.__cause__}", began)
                time.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    @contextmanager
    def _explained(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error) as error:
            location = f"{S3_SCHEME}{self.bucket}/{self._prefix}{name}"
            kind = OutageError if _is_outage(error) else InputError
            raise kind(f"{location!r}: {error}; check the name, the credentials and AWS_ENDPOINT_URL") from error


def _is_visible(name: str) -> bool:
    return is_inside(name) and "/." not in f"/{name}"


def _is_outage(error: Exception) -> bool:
    """True if the service is at fault, and not the request."""
    if isinstance(error, Boto3Error) and isinstance(error.__context__, BotoCoreError | ClientError):
        return _is_outage(error.__context__)  # of an upload
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return bool(status >= 500 or status == 429 or error.response.get("Error", {}).get("Code") == "SlowDown")
    kinds = (UnreachableError, HTTPClientError, IncompleteReadError, ResponseStreamingError, RetriesExceededError)
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:g} s"
