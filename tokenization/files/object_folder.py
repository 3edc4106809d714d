"""A `Storage` under a prefix of a bucket, whichever service keeps it."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import filterfalse
from pathlib import Path
from typing import TypeVar

from tokenization.errors import InputError, OutageError
from tokenization.files.checks import check_whole, is_inside
from tokenization.files.listing import Listing
from tokenization.files.object_service import FIRST_PAUSE_S, LONGEST_PAUSE_S, ObjectService, Stored
from tokenization.files.room import naming_full_disk
from tokenization.patience import outage_s
from tokenization.waiting import Wait

T = TypeVar("T")


class ObjectFolder:
    """The files under a prefix of a bucket. Whole files are transferred through a local temporary folder.

    While the service does not answer, requests are repeated for `outage_s`; then they raise `OutageError`.

    Args:
        service: the bucket.
        prefix: of the folder's keys, without a slash at its end; empty for the whole bucket.
    """

    def __init__(self, service: ObjectService, prefix: str) -> None:
        self.service, self._prefix = service, f"{prefix}/" if prefix else ""

    def __str__(self) -> str:
        return f"{self.bucket}/{self._prefix}".rstrip("/")

    @property
    def bucket(self) -> str:
        """The bucket's location."""
        return f"{self.service.scheme}{self.service.bucket}"

    def absence(self) -> str:
        """Why the service does not answer now, after one request; empty if it does."""
        try:
            self.service.probe(self._prefix)
        except self.service.errors() as error:
            return str(error) if self.service.is_outage(error) else ""
        return ""

    def names(self, hidden: bool = False) -> list[str]:
        found = self.listing()
        return sorted([*found.names, *found.others]) if hidden else found.names

    def listing(self, without: Sequence[str] = ()) -> Listing:
        """A key that ends with a slash is what consoles show as a folder, and left out."""
        names = [name for name in self._listed(lambda item: item.key, without) if not name.endswith("/")]
        names = [key[len(self._prefix) :] for key in names]
        others = set(filterfalse(_is_visible, names))
        return Listing(sorted(name for name in names if name not in others), sorted(others))

    def versions(self) -> dict[str, str]:
        """The tag of each file."""
        tags = self._listed(lambda item: (item.key[len(self._prefix) :], item.tag))
        return {name: tag for name, tag in sorted(tags) if _is_visible(name)}

    def sizes(self) -> dict[str, int]:
        sizes = self._listed(lambda item: (item.key[len(self._prefix) :], item.size))
        return {name: size for name, size in sorted(sizes) if _is_visible(name)}

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except InputError as error:
            if self.service.is_missing(error.__cause__):
                return False
            raise
        return True

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="mars-bucket-") as folder:
            path = Path(folder) / Path(name).name
            with naming_full_disk(path, path):
                self._answered(lambda: self.service.download(self._prefix + name, path), name)
            yield path

    def size(self, name: str) -> int:
        return self._answered(lambda: self.service.size(self._prefix + name), name)

    def read(self, name: str, start: int, stop: int) -> bytes:
        content = self._answered(lambda: self.service.fetch(self._prefix + name, start, stop), name)
        return check_whole(content, stop - start, f"{self}/{name}")

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        with tempfile.TemporaryDirectory(prefix="mars-bucket-") as folder:
            path = Path(folder) / Path(name).name
            with naming_full_disk(path, path):
                fill(path)
            self._answered(lambda: self.service.upload(path, self._prefix + name), name)

    def text(self, name: str) -> str | None:
        return self._answered(lambda: self._text_of(name), name)[0]

    def swap(self, name: str, expected: str | None, text: str) -> bool:
        """Uses a conditional write: the service refuses the second of two concurrent ones."""
        asked = False

        def ask() -> bool:
            nonlocal asked
            again, asked = asked, True
            now, tag = self._text_of(name)
            if now != expected:
                return again and now == text
            if not self.service.put_if(self._prefix + name, text.encode(), tag):
                # A request that got an error and was repeated may have been carried out nevertheless.
                return self._text_of(name)[0] == text
            return True

        return self._answered(ask, name)

    def refuses_conditional_writes(self, name: str) -> bool:
        """True if the service refuses a write whose condition does not hold, as `swap` needs. It writes and removes a
        small file."""
        key = self._prefix + name
        with self._explained(name):
            self.service.delete(key)
            self.service.put_if(key, b"first", None)
            _, stale = self.service.content(key)
            refused = not self.service.put_if(key, b"second", None)
            self.service.put_if(key, b"third", self.service.content(key)[1])
            refused = refused and not self.service.put_if(key, b"fourth", stale)
            self.service.delete(key)
        return refused

    def delete_folder(self, name: str) -> None:
        def ask() -> None:
            for key in self.service.listed(f"{self._prefix}{name}/", lambda item: item.key):
                self.service.delete(key)

        self._answered(ask, name)

    def delete(self, name: str) -> None:
        self._answered(lambda: self.service.delete(self._prefix + name), name)

    def _listed(self, take: Callable[[Stored], T], without: Sequence[str] = ()) -> list[T]:
        left_out = [self._prefix + folder for folder in without]
        return self._answered(lambda: self.service.listed(self._prefix, take, left_out))

    def _text_of(self, name: str) -> tuple[str | None, str | None]:
        """A small file's content and its tag; None if there is no such file."""
        try:
            content, tag = self.service.content(self._prefix + name)
        except self.service.errors() as error:
            if self.service.is_missing(error):
                return None, None
            raise
        return content.decode(), tag

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
        except self.service.errors() as error:
            location = f"{self.bucket}/{self._prefix}{name}"
            kind = OutageError if self.service.is_outage(error) else InputError
            raise kind(f"{location!r}: {error}; check {self.service.remedy}") from error


def _is_visible(name: str) -> bool:
    return is_inside(name) and "/." not in f"/{name}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:g} s"
