"""Decides which requests are let in: by token, by host, by rate, and by what is outstanding."""

import hashlib
import hmac
import re
import time
from collections import deque
from collections.abc import Callable

from pipeline.config.serving import LOOPBACK, ServingLimits
from pipeline.serving.api_errors import ApiError, busy

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d*)?", re.ASCII)
WINDOW_S = 60.0
RECENT = 64
"""Ends of jobs from which the server's pace is measured."""
USUAL_S = 2.0
"""Seconds a job, before the first ones have ended."""
MAX_CLIENTS = 10_000
"""Client addresses whose requests are counted; those that were quiet for a minute are forgotten first."""


def token_hash(token: str) -> str:
    """What the server keeps of its token."""
    return hashlib.sha256(token.encode()).hexdigest()


def has_token(authorization: str, expected_hash: str) -> bool:
    """True if a request has the server's token, or none is needed: then the hash is empty."""
    kind, _, token = authorization.partition(" ")
    return not expected_hash or (
        kind.lower() == "bearer" and hmac.compare_digest(token_hash(token.strip()), expected_hash)
    )


def check_token(authorization: str, expected_hash: str) -> None:
    """Refuses a request without the server's token."""
    if not has_token(authorization, expected_hash):
        raise ApiError(
            401,
            "this server wants its token: send the header 'Authorization: Bearer TOKEN' (api_key of OpenAI's client)",
            None,
            "invalid_api_key",
            {"WWW-Authenticate": "Bearer"},
        )


def check_host(host: str, listens_on: str) -> None:
    """On loopback, refuses what a browser sends for a page of another host whose name was made to lead here."""
    found = HOST.fullmatch(host)
    if listens_on in LOOPBACK and not (found and found[1].lower().strip("[]") in LOOPBACK):
        raise ApiError(
            403, f"this server listens on loopback, and the request is for host {host!r}", None, "wrong_host"
        )


class Gate:
    """Counts what is outstanding, and each client's requests of the last minute."""

    def __init__(self, limits: ServingLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._asked: dict[str, deque[float]] = {}
        self._ends: deque[float] = deque(maxlen=RECENT)
        self._promised = 0.0
        self.outstanding = 0
        self.closed = False

    def check_rate(self, client: str) -> None:
        """Counts a request of a client address. Refuses it with 429 beyond the limit."""
        limit, now = self._limits.requests_per_minute, self._clock()
        if not limit:
            return
        asked = self._asked.setdefault(client, deque())
        while asked and asked[0] <= now - WINDOW_S:
            asked.popleft()
        if len(asked) >= limit:
            raise busy(f"more than {limit} requests in a minute from {client}", asked[0] + WINDOW_S - now)
        asked.append(now)
        if len(self._asked) > MAX_CLIENTS:
            quiet = [each for each, times in self._asked.items() if not times or times[-1] <= now - WINDOW_S]
            for each in quiet or [next(iter(self._asked))]:
                del self._asked[each]

    def enter(self, count: int) -> None:
        """Lets `count` jobs in, or refuses all of them: with 429, or with 503 once the gate is `closed`."""
        if self.closed:
            raise ApiError(503, "this server is being stopped", None, "stopping", {"Retry-After": "30"})
        most = self._limits.max_outstanding
        if self.outstanding + count > most:
            raise busy(f"{self.outstanding} of at most {most} jobs wait or run here", self._promise(count))
        self.outstanding += count

    def leave(self, made: bool) -> None:
        """One job has ended."""
        self.outstanding -= 1
        if made:
            self._ends.append(self._clock())

    def _promise(self, count: int) -> float:
        """Seconds after which there will be room for `count` jobs, at the pace of the last ones.

        Those who were refused before come first, so that not all come again at once. Nobody waits longer than all that
        is outstanding takes: some never come again.
        """
        now, most = self._clock(), self._limits.max_outstanding
        pace_s = (now - self._ends[0]) / len(self._ends) if len(self._ends) > 1 else USUAL_S
        room = now + pace_s * max(1, self.outstanding + count - most)
        latest = max(room, now + pace_s * most)
        self._promised = min(max(room, self._promised + pace_s * count), latest)
        return min(self._promised - now, WINDOW_S)
