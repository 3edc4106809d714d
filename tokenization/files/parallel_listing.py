"""Lists the objects of a bucket, several pages at once: a page has 1,000, and a million would take minutes."""

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from multiprocessing.pool import AsyncResult, ThreadPool
from typing import Generic, TypeVar

from tokenization.files.object_service import Stored

T = TypeVar("T")
PAGES_AT_ONCE = 16
LAST = "\U0010ffff"
"""Follows every other character, in the order of a bucket's keys as in that of Python's texts."""
SURROGATES = range(0xD800, 0xE000)
LOWEST, HIGHEST = " ", "\x7f"
"""Between them are the characters that most keys have; keys may have others."""

Ask = Callable[[str], tuple[list[Stored], bool]]
"""Returns the items of the first page after a key, and True if others follow."""


class ParallelListing(Generic[T]):
    """All items of a prefix, in any order. A range of keys that turns out to be long is shared among threads.

    Args:
        ask: the request for a page.
        take: what is kept of an item.
        without: keys that start with one of these are left out, and not asked for as far as possible.
    """

    def __init__(self, ask: Ask, take: Callable[[Stored], T], without: Sequence[str] = ()) -> None:
        self._ask, self._take, self._without = ask, take, tuple(without)
        self._found: list[T] = []
        self._lock, self._walking = threading.Lock(), 1
        self._shares: list[AsyncResult] = []

    def all(self) -> list[T]:
        """Raises what `ask` raises."""
        after = self._page("", None)
        if after is None:
            return self._found
        with ThreadPool(PAGES_AT_ONCE) as pool:  # Ctrl-C does not wait for its threads
            self._pool = pool
            self._walk(after, None)
            while self._shares:  # a share adds those that it makes before it ends
                self._shares.pop().get()
        return self._found

    def _walk(self, after: str | None, until: str | None) -> None:
        while after is not None:
            until = self._shared(after, until)
            after = self._page(after, until)
        with self._lock:
            self._walking -= 1

    def _page(self, after: str, until: str | None) -> str | None:
        """Takes the items of one page whose keys are above `after` and up to `until`. Returns the key after which there
        may be more of these, or None."""
        items, more = self._ask(after)
        keys = [item.key for item in items]
        inside = len(keys) if until is None else bisect_right(keys, until)
        kept = [item for item in items[:inside] if not item.key.startswith(self._without)]
        self._found.extend(map(self._take, kept))
        return self._behind(keys[-1]) if more and inside == len(keys) else None

    def _behind(self, key: str) -> str:
        """The key, or the end of the folder in which it is left out."""
        return next((folder + LAST for folder in self._without if key.startswith(folder)), key)

    def _shared(self, after: str, until: str | None) -> str | None:
        """Gives the second half of a range to another thread if one is idle. Returns the end of what is left."""
        middle = between(after, until)
        with self._lock:
            if not middle or self._walking >= PAGES_AT_ONCE:
                return until
            self._walking += 1
        self._shares.append(self._pool.apply_async(self._walk, (middle, until)))
        return middle


def between(after: str, until: str | None) -> str:
    """A text between two keys; empty if none is found. Which one it is decides only how long a listing takes."""
    pairs = enumerate(zip(after, until or "", strict=False))
    place = next((at for at, (one, other) in pairs if one != other), min(len(after), len(until or "")))
    for start, high in ((place, (until or "")[place : place + 1]), (place + 1, "")):
        low = after[start : start + 1] or LOWEST
        code = (ord(low) + ord(high or HIGHEST)) // 2
        if code not in SURROGATES and after < (middle := after[:start] + chr(code)) and (not until or middle < until):
            return middle
    return ""
