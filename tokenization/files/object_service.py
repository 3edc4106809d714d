"""What the services that keep objects in buckets have in common: S3, Google Cloud Storage, Azure Blob Storage."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
"""Seconds between two attempts at a service that does not answer: they grow from the first to the second."""
PROBE_S = 5.0
"""Seconds that a probe waits for an answer."""
PART_BYTES = 8 * 2**20
"""Files larger than this are transferred in parts."""


class Stored(NamedTuple):
    """An object in a listing.

    Attributes:
        key: its whole name in the bucket.
        tag: the service's name for this content: an ETag, or a generation. It changes whenever the object does.
        size: in bytes.
    """

    key: str
    tag: str
    size: int


class NamedBucket:
    """A bucket by its name, which is all that is pickled: clients are made anew in each process."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.bucket,)


class ObjectService(Protocol):
    """One bucket of a service. It can be pickled. Methods raise the errors of the service's library (`errors`).

    Attributes:
        scheme: begins a location, as in `s3://`.
        bucket: the bucket's name.
        remedy: what to check when a request is refused.
    """

    scheme: str
    bucket: str
    remedy: str

    def errors(self) -> tuple[type[Exception], ...]:
        """What the library raises."""

    def is_missing(self, error: BaseException | None) -> bool:
        """True if an error says that the object does not exist."""

    def is_outage(self, error: BaseException) -> bool:
        """True if the service is at fault, and not the request: it makes sense to ask again."""

    def probe(self, prefix: str) -> None:
        """Asks the service one question, once, and waits at most `PROBE_S`."""

    def listed(self, prefix: str, take: Callable[[Stored], T], without: Sequence[str] = ()) -> list[T]:
        """What is kept of each object under a prefix, in any order, but for keys that start with one of `without`."""

    def size(self, key: str) -> int:
        """Size of an object in bytes."""

    def fetch(self, key: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of an object, or fewer where it ends before."""

    def content(self, key: str) -> tuple[bytes, str]:
        """A small object's content and its tag."""

    def download(self, key: str, path: Path) -> None:
        """Writes an object's content to a file."""

    def upload(self, path: Path, key: str) -> None:
        """Makes an object of a file. It is visible only once it is complete."""

    def put_if(self, key: str, content: bytes, tag: str | None) -> bool:
        """Writes a small object if it still has this tag, or if there is none (None).

        Returns:
            True if it did. If several try at once, only one succeeds.
        """

    def delete(self, key: str) -> None:
        """Removes the object if it exists."""
