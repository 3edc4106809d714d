"""One attempt at a time owns a stage's checkpoints.

Whoever starts takes them over from the attempt before, which may hang somewhere and come back: it then finds that it
owns them no more, and ends without having written a manifest.
"""

import os
import socket
import time
import uuid

from pipeline.errors import InputError
from tokenization.files.storage import open_storage

OWNER_FILE = "owner.txt"


class RunOwner:
    """What one attempt holds. Of several that start at once one gets the checkpoints.

    Args:
        url: folder or URL of the checkpoints.

    Raises:
        InputError: another one has taken them in the same moment.
    """

    def __init__(self, url: str) -> None:
        self._url, self._storage = url, open_storage(url)
        started = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        self.text = f"process {os.getpid()} on {socket.gethostname()}, started {started}, {uuid.uuid4().hex}"
        before = owner_text(url)
        if not self._storage.swap(OWNER_FILE, before, self.text):
            raise InputError(
                f"another attempt has just taken the checkpoints in {url!r}: {owner_text(url)}; stop it, or leave it be"
            )

    def loss(self) -> str:
        """Who has taken over the checkpoints, as an error message; empty where this attempt still holds them."""
        if (now := owner_text(self._url)) == self.text:
            return ""
        return f"another attempt has taken over the checkpoints in {self._url!r}: {now}; this one ends"


def owner_text(url: str) -> str | None:
    """What the owner of the checkpoints says of itself; None where nobody ever owned them."""
    return open_storage(url).text(OWNER_FILE)
