"""A bucket of S3, or of another service with an S3 interface, by boto3."""

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

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

from tokenization.files.object_service import PROBE_S, NamedBucket, Stored
from tokenization.files.parallel_listing import ParallelListing

T = TypeVar("T")
ATTEMPTS = 3
"""Attempts of boto3 at a request or a part of a file, with growing pauses: some seconds."""
CONFIG = Config(
    retries={"mode": "standard", "max_attempts": ATTEMPTS}, connect_timeout=10, read_timeout=60, tcp_keepalive=True
)
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
"""S3's error codes for a conditional write whose condition does not hold."""
MISSING = ("NoSuchKey", "404")


class S3Bucket(NamedBucket):
    """An `ObjectService` with AWS's usual credential chain and AWS_ENDPOINT_URL."""

    scheme = "s3://"
    remedy = "the name, the credentials and AWS_ENDPOINT_URL"

    @cached_property
    def _client(self) -> Any:
        return Session().client("s3", config=CONFIG)

    @cached_property
    def _lister(self) -> Any:
        client = Session().client("s3", config=CONFIG)
        client.meta.events.register("before-parse.*", take_items)  # botocore's own handlers, which parse a page, follow
        return client

    @cached_property
    def _probe(self) -> Any:
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=PROBE_S, read_timeout=PROBE_S)
        return Session().client("s3", config=config)

    @property
    def _transfer(self) -> TransferConfig:
        return TransferConfig(num_download_attempts=ATTEMPTS)

    def errors(self) -> tuple[type[Exception], ...]:
        return BotoCoreError, ClientError, Boto3Error

    def is_missing(self, error: BaseException | None) -> bool:
        return isinstance(error, ClientError) and error.response["Error"]["Code"] in MISSING

    def is_outage(self, error: BaseException) -> bool:
        if isinstance(error, Boto3Error) and isinstance(error.__context__, BotoCoreError | ClientError):
            return self.is_outage(error.__context__)  # of an upload
        if isinstance(error, ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return bool(status >= 500 or status == 429 or error.response.get("Error", {}).get("Code") == "SlowDown")
        kinds = (UnreachableError, HTTPClientError, IncompleteReadError, ResponseStreamingError, RetriesExceededError)
        return isinstance(error, kinds) or isinstance(error.__cause__, kinds)

    def probe(self, prefix: str) -> None:
        self._probe.list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=1)

    def listed(self, prefix: str, take: Callable[[Stored], T], without: Sequence[str] = ()) -> list[T]:
        def ask(after: str) -> tuple[list[Stored], bool]:
            start = {"StartAfter": after} if after else {}
            page = self._lister.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **start)
            items = [Stored(item["Key"], item["ETag"], int(item["Size"])) for item in page.get("Contents", ())]
            return items, page["IsTruncated"]

        return ParallelListing(ask, take, without).all()

    def size(self, key: str) -> int:
        return int(self._client.head_object(Bucket=self.bucket, Key=key)["ContentLength"])

    def fetch(self, key: str, start: int, stop: int) -> bytes:
        return self._fetched(key, Range=f"bytes={start}-{stop - 1}")[0]

    def content(self, key: str) -> tuple[bytes, str]:
        return self._fetched(key)

    def _fetched(self, key: str, **how: str) -> tuple[bytes, str]:
        """An object's content and its ETag. Repeats a request whose answer was cut off, which boto3 itself does not."""
        for attempt in range(ATTEMPTS):
            answer = self._client.get_object(Bucket=self.bucket, Key=key, **how)
            try:
                return answer["Body"].read(), answer["ETag"]
            except (IncompleteReadError, ResponseStreamingError, ReadTimeoutError):
                if attempt + 1 == ATTEMPTS:
                    raise
                time.sleep(min(2.0**attempt / 10, 20.0))
        raise AssertionError("the last attempt returns or raises")

    def download(self, key: str, path: Path) -> None:
        self._client.download_file(self.bucket, key, str(path), Config=self._transfer)

    def upload(self, path: Path, key: str) -> None:
        self._client.upload_file(str(path), self.bucket, key, Config=self._transfer)

    def put_if(self, key: str, content: bytes, tag: str | None) -> bool:
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            self._client.put_object(Bucket=self.bucket, Key=key, Body=content, **condition)
        except ClientError as error:
            if error.response["Error"]["Code"] not in REFUSED:
                raise
            return False
        return True

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self.bucket, Key=key)


def take_items(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **others: Any) -> None:
    """An event handler of botocore's: takes keys, ETags and sizes out of a page, all that is wanted of it. botocore
    itself takes ten times as long for a page."""
    if response_dict["status_code"] != 200:
        return
    try:
        page = ElementTree.fromstring(response_dict["body"])
    except ElementTree.ParseError:
        return  # botocore says what is wrong with it
    space = page.tag[: page.tag.rindex("}") + 1] if "}" in page.tag else ""
    items, key, tag, size = page.findall(f"{space}Contents"), f"{space}Key", f"{space}ETag", f"{space}Size"
    for item in items:
        page.remove(item)
    customized_response_dict["Contents"] = [
        {"Key": one.findtext(key), "ETag": one.findtext(tag), "Size": one.findtext(size)} for one in items
    ]
    response_dict["body"] = ElementTree.tostring(page)
