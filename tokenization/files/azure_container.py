"""A container of Azure Blob Storage, by Azure's own library (extra `azure`)."""

import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from tokenization.errors import InputError
from tokenization.files.object_service import PART_BYTES, PROBE_S, NamedBucket, Stored
from tokenization.files.optional_library import needed

T = TypeVar("T")
library = partial(needed, what="az://", extra="azure")
ATTEMPTS = 3
"""Attempts of the library at a request. What still fails then is tried again by `ObjectFolder`, with growing pauses."""
PAUSE_S = 0.2
CONNECTION, ACCOUNT = "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT"
SECRETS = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN")
PARTS_AT_ONCE = 4


class AzureContainer(NamedBucket):
    """An `ObjectService`. The account and its credentials come from the variables that Azure's command line reads."""

    scheme = "az://"
    remedy = f"the name, {ACCOUNT} or {CONNECTION}, and the credentials"

    @cached_property
    def _container(self) -> Any:
        return self._opened(ATTEMPTS, connection_timeout=10, read_timeout=60)

    @cached_property
    def _probe(self) -> Any:
        return self._opened(1, connection_timeout=PROBE_S, read_timeout=PROBE_S)

    def _opened(self, attempts: int, **how: Any) -> Any:
        """Raises:
        InputError: no variable names the account.
        """
        blob = library("azure.storage.blob")
        kind, retry = blob.ContainerClient, blob.LinearRetry
        how["retry_policy"] = retry(backoff=PAUSE_S, retry_total=attempts - 1, random_jitter_range=0)
        how |= {"max_single_put_size": PART_BYTES, "max_block_size": PART_BYTES, "max_single_get_size": PART_BYTES}
        if connection := os.environ.get(CONNECTION):
            return kind.from_connection_string(connection, self.bucket, **how)
        if not (account := os.environ.get(ACCOUNT)):
            raise InputError(f"'{self.scheme}{self.bucket}' needs {ACCOUNT} or {CONNECTION}; set one of them")
        secret: Any = next(filter(None, map(os.environ.get, SECRETS)), None)
        if secret is None:
            secret = library("azure.identity").DefaultAzureCredential()
        return kind(f"https://{account}.blob.core.windows.net", self.bucket, credential=secret, **how)

    def errors(self) -> tuple[type[Exception], ...]:
        return (library("azure.core.exceptions").AzureError,)

    def is_missing(self, error: BaseException | None) -> bool:
        code = getattr(error, "error_code", None)
        kind = library("azure.core.exceptions").ResourceNotFoundError
        return isinstance(error, kind) and code != "ContainerNotFound"

    def is_outage(self, error: BaseException) -> bool:
        exceptions = library("azure.core.exceptions")
        if isinstance(error, exceptions.ClientAuthenticationError):
            return False
        status = getattr(error, "status_code", None)
        return status is None or status >= 500 or status in (408, 429)

    def probe(self, prefix: str) -> None:
        next(iter(self._probe.list_blob_names(name_starts_with=prefix, results_per_page=1)), None)

    def listed(self, prefix: str, take: Callable[[Stored], T], without: Sequence[str] = ()) -> list[T]:
        """One page of 5,000 after the other: the service begins only where a page ended."""
        left_out = tuple(without)
        return [
            take(Stored(blob.name, str(blob.etag), int(blob.size)))
            for blob in self._container.list_blobs(name_starts_with=prefix)
            if not blob.name.startswith(left_out)
        ]

    def size(self, key: str) -> int:
        return int(self._container.get_blob_client(key).get_blob_properties().size)

    def fetch(self, key: str, start: int, stop: int) -> bytes:
        content: bytes = self._container.download_blob(key, offset=start, length=stop - start).readall()
        return content

    def content(self, key: str) -> tuple[bytes, str]:
        answer = self._container.download_blob(key)
        return answer.readall(), str(answer.properties.etag)

    def download(self, key: str, path: Path) -> None:
        with path.open("wb") as file:
            self._container.download_blob(key, max_concurrency=PARTS_AT_ONCE).readinto(file)

    def upload(self, path: Path, key: str) -> None:
        with path.open("rb") as file:
            self._container.upload_blob(key, file, overwrite=True, max_concurrency=PARTS_AT_ONCE)

    def put_if(self, key: str, content: bytes, tag: str | None) -> bool:
        exceptions = library("azure.core.exceptions")
        conditions = library("azure.core").MatchConditions
        how: dict[str, Any] = {}
        if tag is not None:
            how = {"overwrite": True, "etag": tag, "match_condition": conditions.IfNotModified}
        try:
            self._container.upload_blob(key, content, **how)
        except (exceptions.ResourceExistsError, exceptions.ResourceModifiedError):
            return False
        except exceptions.ResourceNotFoundError as error:  # it is gone, so that it has another tag
            if tag is None or not self.is_missing(error):
                raise
            return False
        return True

    def delete(self, key: str) -> None:
        try:
            self._container.delete_blob(key)
        except self.errors() as error:
            if not self.is_missing(error):
                raise
