"""A bucket of Google Cloud Storage, by Google's own library (extra `gcp`)."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from tokenization.files.object_service import PART_BYTES, PROBE_S, NamedBucket, Stored
from tokenization.files.optional_library import needed
from tokenization.files.parallel_listing import ParallelListing

T = TypeVar("T")
library = partial(needed, what="gs://", extra="gcp")
RETRIED_S = 5.0
"""Seconds for which the library repeats a request that failed."""
REQUEST_S = 60.0
"""Seconds without an answer after which a request has failed."""
LISTED = "items(name,generation,size),nextPageToken"
NO_BUCKET_LOOKUP = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"
"""The library's switch: without it each client asks for the bucket's location, for traces that nobody takes."""


class GcsBucket(NamedBucket):
    """An `ObjectService` with Google's application default credentials. A tag is an object's generation."""

    scheme = "gs://"
    remedy = "the name and Google's application default credentials"

    @cached_property
    def _bucket(self) -> Any:
        os.environ.setdefault(NO_BUCKET_LOOKUP, "true")
        storage = library("google.cloud.storage")
        return storage.Client(project=None).bucket(self.bucket)

    @cached_property
    def _how(self) -> dict[str, Any]:
        """How long a request is waited for and repeated."""
        retry = library("google.cloud.storage.retry").DEFAULT_RETRY
        return {"timeout": REQUEST_S, "retry": retry.with_timeout(RETRIED_S)}

    def errors(self) -> tuple[type[Exception], ...]:
        exceptions = library("google.api_core.exceptions")
        of_credentials = library("google.auth.exceptions")
        of_requests = library("requests.exceptions")
        of_data = library("google.cloud.storage.exceptions")
        return (
            exceptions.GoogleAPIError,
            of_credentials.GoogleAuthError,
            of_requests.RequestException,
            of_data.DataCorruption,
            of_data.InvalidResponse,
        )

    def is_missing(self, error: BaseException | None) -> bool:
        return isinstance(error, library("google.api_core.exceptions").NotFound)

    def is_outage(self, error: BaseException) -> bool:
        exceptions = library("google.api_core.exceptions")
        if isinstance(error, exceptions.RetryError) and error.cause is not None:
            return self.is_outage(error.cause)
        if isinstance(error, exceptions.GoogleAPICallError):
            return bool((error.code or 500) >= 500 or error.code in (408, 429))
        if isinstance(error, library("google.auth.exceptions").GoogleAuthError):
            return bool(getattr(error, "retryable", False))
        return True  # no connection, or an answer that was cut off

    def probe(self, prefix: str) -> None:
        listed = self._bucket.list_blobs(prefix=prefix, max_results=1, fields=LISTED, timeout=PROBE_S, retry=None)
        next(iter(listed), None)

    def listed(self, prefix: str, take: Callable[[Stored], T], without: Sequence[str] = ()) -> list[T]:
        def ask(after: str) -> tuple[list[Stored], bool]:
            start = {"start_offset": f"{after}\0"} if after else {}  # the first key that may be listed
            pages = self._bucket.list_blobs(prefix=prefix, fields=LISTED, **start, **self._how)
            page: Iterator[Any] = next(pages.pages, iter(()))
            items = [Stored(blob.name, str(blob.generation), int(blob.size or 0)) for blob in page]
            return items, pages.next_page_token is not None

        return ParallelListing(ask, take, without).all()

    def size(self, key: str) -> int:
        blob = self._bucket.blob(key)
        blob.reload(**self._how)
        return int(blob.size)

    def fetch(self, key: str, start: int, stop: int) -> bytes:
        content: bytes = self._bucket.blob(key).download_as_bytes(start=start, end=stop - 1, **self._how)
        return content

    def content(self, key: str) -> tuple[bytes, str]:
        exceptions = library("google.api_core.exceptions")
        while True:
            blob = self._bucket.blob(key)
            blob.reload(**self._how)
            try:
                content = blob.download_as_bytes(if_generation_match=blob.generation, **self._how)
            except (exceptions.PreconditionFailed, exceptions.NotFound):
                continue  # it was replaced or removed between the two requests
            return content, str(blob.generation)

    def download(self, key: str, path: Path) -> None:
        self._bucket.blob(key).download_to_filename(str(path), **self._how)

    def upload(self, path: Path, key: str) -> None:
        self._bucket.blob(key, chunk_size=PART_BYTES).upload_from_filename(str(path), **self._how)

    def put_if(self, key: str, content: bytes, tag: str | None) -> bool:
        blob, generation = self._bucket.blob(key), 0 if tag is None else int(tag)  # 0: there is none
        try:
            blob.upload_from_string(content, if_generation_match=generation, **self._how)
        except library("google.api_core.exceptions").PreconditionFailed:
            return False
        return True

    def delete(self, key: str) -> None:
        exceptions = library("google.api_core.exceptions")
        try:
            self._bucket.blob(key).delete(**self._how)
        except exceptions.NotFound:
            return
