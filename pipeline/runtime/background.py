"""Runs work in a background thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_background(follow: Callable[[threading.Event], object], name: str) -> Iterator[None]:
    """Runs `follow` in a thread called `name` while the enclosed block runs.

    At the end of the block it sets the event that `follow` got, and waits for the thread.
    """
    ended = threading.Event()
    follower = threading.Thread(target=follow, args=(ended,), name=name, daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
