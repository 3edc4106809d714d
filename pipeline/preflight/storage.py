"""The operations by which a node tests a shared folder or bucket. Each function runs on a node, or in the driver."""

import fcntl
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tokenization.files.local_folder import LocalFolder
from tokenization.files.object_folder import ObjectFolder
from tokenization.files.storage import open_storage

POLL_S = 0.1
VISIBLE_WITHIN_S = 10.0
"""Seconds within which what one node wrote must be visible to another. Checkpoints wait 60 s for it."""
HELD_AT_MOST_S = 20.0
CHUNK_BYTES = 4_000_000
TOKEN, OWNER, LOCK, HELD, RELEASE = "token.txt", "owner.txt", "lock", "held.txt", "release.txt"


@dataclass(frozen=True)
class Write:
    """The bytes a second of writing a file, disk included; or the problem that came up."""

    bytes_per_s: float
    problem: str = ""


def write_text(url: str, name: str, text: str) -> None:
    """Writes a small file into the folder."""
    open_storage(url).write(name, lambda path: path.write_text(text))


def wait_for_text(url: str, name: str, within_s: float = VISIBLE_WITHIN_S) -> str | None:
    """Returns a file's content, or None if it is not visible within the time."""
    storage, started = open_storage(url), time.monotonic()
    while (text := storage.text(name)) is None and time.monotonic() - started < within_s:
        time.sleep(POLL_S)
    return text


def seen_name(me: str) -> str:
    """The name of the file that a node leaves."""
    return f"seen-{me}.txt"


def see_and_answer(url: str, token: str, me: str) -> float | None:
    """Waits for the driver's `TOKEN`, and leaves a file of its own.

    Returns:
        The seconds until it was visible, or None if it was not.
    """
    started = time.monotonic()
    seen = wait_for_text(url, TOKEN)
    seconds = time.monotonic() - started
    if seen == token:
        write_text(url, seen_name(me), token)
    return seconds if seen == token else None


def take_ownership(url: str, me: str) -> bool:
    """Tries to become the owner, as an attempt at a stage does. True for one of all that try."""
    return open_storage(url).swap(OWNER, None, me)


def refuses_conditional_writes(url: str) -> bool | None:
    """True if the bucket refuses a write whose condition does not hold; None for a file system, which has none."""
    storage = open_storage(url)
    return storage.refuses_conditional_writes("conditional.txt") if isinstance(storage, ObjectFolder) else None


def hold_lock(url: str) -> None:
    """Holds a lock on a file until `RELEASE` appears."""
    with (Path(url) / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_text(url, HELD, "held")
        wait_for_text(url, RELEASE, HELD_AT_MOST_S)


def lock_is_free(url: str) -> bool:
    """True if this node gets the lock at once."""
    with (Path(url) / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def measure_write(url: str, me: str, num_bytes: int) -> Write:
    """Writes a file of `num_bytes` random bytes as a checkpoint's part is written, and removes it."""
    storage, name, chunk = open_storage(url), f"write-{me}.bin", os.urandom(CHUNK_BYTES)
    num_chunks = max(1, num_bytes // CHUNK_BYTES)

    def fill(path: Path) -> None:
        with path.open("wb") as file:
            for _ in range(num_chunks):
                file.write(chunk)

    started = time.monotonic()
    try:
        storage.write(name, fill)
    except OSError as error:
        return Write(0.0, f"{type(error).__name__}: {error.strerror or error}")
    seconds = time.monotonic() - started
    storage.delete(name)
    return Write(num_chunks * CHUNK_BYTES / max(seconds, 1e-9))


def free_bytes(url: str) -> int | None:
    """Free bytes of the folder's file system; None for a bucket."""
    return shutil.disk_usage(url).free if isinstance(open_storage(url), LocalFolder) else None
