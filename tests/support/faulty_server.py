"""An HTTP server on this machine that fails on demand."""

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from werkzeug.serving import make_server

from tests.support.ports import serve_in_thread


class FaultyServer(ABC):
    """Serves a WSGI application until `stop`.

    Every `fault_every`-th request fails, alternating between a 500, a request to slow down, and an answer that is cut
    off in the middle. 0 turns faults off. While it is `down`, no request is carried out. Each answer comes `delay_s`
    late.
    """

    KINDS = ("500", "slow down", "cut")

    def __init__(self, app: Callable[[dict, Callable], Iterable[bytes]]) -> None:
        self.fault_every, self.injected = 0, Counter[str]()
        self.down, self.turned_away, self.delay_s = False, 0, 0.0
        self._app, self._count, self._lock = app, 0, threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._respond, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        serve_in_thread(self._server)

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The variables by which clients find the server."""

    def stop(self) -> None:
        self._server.shutdown()

    def _respond(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        time.sleep(self.delay_s)
        fault = self._fault()
        if fault in ("500", "slow down"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, code = ("500 x", "InternalError") if fault == "500" else ("503 x", "SlowDown")
            start_response(status, [("Content-Type", "application/xml")])
            return iter([f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()])
        content = self._app(environ, start_response)
        return _cut(content) if fault == "cut" else content

    def _fault(self) -> str:
        with self._lock:
            if self.down:
                self.turned_away += 1
                return "500"
            self._count += 1
            if not self.fault_every or self._count % self.fault_every:
                return ""
            kind = self.KINDS[sum(self.injected.values()) % len(self.KINDS)]
            self.injected[kind] += 1
            return kind


def _cut(content: Iterable[bytes]) -> Iterator[bytes]:
    whole = b"".join(content)
    yield whole[: len(whole) // 2]
    raise ConnectionAbortedError("cut off, as the test wants it")


ServerOf = Callable[[str], FaultyServer]
"""Starts the server of a scheme of locations, as in `s3`."""
