"""Work that goes on beside other work."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_background(follow: Callable[[threading.Event], object], name: str) -> Iterator[None]:
    """While the enclosed work runs, a thread of this name runs `follow`. The event that it gets is set when the work
    has ended; then its end is waited for."""
    ended = threading.Event()
    follower = threading.Thread(target=follow, args=(ended,), name=name, daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
