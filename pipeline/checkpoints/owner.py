"""One attempt at a time owns a stage's checkpoints.

Each new attempt takes them over from the previous one. The previous one may only have hung: if it continues, it finds
that it is no longer the owner, and ends without writing a manifest.
"""

import os
import socket
import time
import uuid

from pipeline.errors import InputError
from tokenization.files.storage import open_storage

OWNER_FILE = "owner.txt"


class RunOwner:
    """One attempt's ownership of the checkpoints. If several attempts start at once, only one gets it.

    Args:
        url: folder or URL of the checkpoints.

    Raises:
        InputError: another attempt took them at the same moment.
    """

    def __init__(self, url: str) -> None:
        self._url, self._storage = url, open_storage(url)
        started = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        self.text = f"process {os.getpid()} on {socket.gethostname()}, started {started}, {uuid.uuid4().hex}"
        before = owner_text(url)
        if not self._storage.swap(OWNER_FILE, before, self.text):
            raise InputError(
                f"another attempt has just taken the checkpoints in {url!r}: {owner_text(url)}; stop it, or let it run"
            )

    def loss(self) -> str:
        """Returns an error message that names the new owner; empty if this attempt still owns the checkpoints."""
        if (now := owner_text(self._url)) == self.text:
            return ""
        return f"another attempt has taken over the checkpoints in {self._url!r}: {now}; this one ends"


def owner_text(url: str) -> str | None:
    """Returns the owner's description of itself, or None if the checkpoints never had an owner."""
    return open_storage(url).text(OWNER_FILE)
