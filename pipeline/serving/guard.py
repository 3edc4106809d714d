"""What every request passes: host, token, rate, size of the body, errors in OpenAI's form, one line in the log."""

import logging
import re
import time
import uuid
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serving.admission import Gate, check_host, check_token
from pipeline.serving.api_errors import FAILED, ApiError, busy
from pipeline.serving.events import event_of

logger = logging.getLogger("ray.serve.mars")
OPEN_PATHS = ("/", "/page.css", "/page.js", "/growing.js", "/settings", "/health")
"""Paths that need no token: the page, which holds no secret, the question if a token is needed, and if the server is
well."""
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
EVENTS = "text/event-stream"
MAX_OPEN = 1000
"""Requests that may be open at once: their bodies or their answers are on the way."""
OPEN_AGAIN_S = 5.0
"""Seconds after which one beyond them is told to come again."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True)
class Access:
    """Who may come in.

    Attributes:
        listens_on: the address that the server listens on.
        token_hash: of the server's token; empty if it needs none.
        max_body_bytes: bytes of a request's body.
    """

    listens_on: str
    token_hash: str
    max_body_bytes: int


class Guard:
    """An ASGI middleware with the checks of every request."""

    def __init__(self, app: ASGIApp, access: Access, gate: Gate) -> None:
        self._app, self._access, self._gate = app, access, gate
        self._num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = _Seen(scope, send, _id_of(scope))
        self._num_open += 1
        try:
            await self._app(scope, self._checked(scope, receive), seen.send)
        except ApiError as error:
            await seen.refuse(error, receive)
        except Exception:
            logger.exception("request %s failed", seen.id)
            if not seen.complete:
                await seen.refuse(FAILED, receive)
        finally:
            self._num_open -= 1
            seen.log()

    def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """Raises ApiError if the request is refused; else counts the bytes of the body while it is read."""
        headers = Headers(scope=scope)
        check_host(headers.get("host", ""), self._access.listens_on)
        if scope["path"] not in OPEN_PATHS:
            check_token(headers.get("authorization", ""), self._access.token_hash)
            if self._num_open > MAX_OPEN:
                raise busy(f"{self._num_open - 1} requests are open here, as many as may be", OPEN_AGAIN_S)
        if scope["method"] == "POST":
            self._gate.check_rate((scope.get("client") or ("unknown", 0))[0])
        most, length = self._access.max_body_bytes, headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise _too_large(int(length), most)
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > most:
                raise _too_large(num_bytes, most)
            return message

        return counted


@dataclass
class _Seen:
    """One request, as its log line has it."""

    scope: Scope
    to_client: Send
    id: str
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    complete: bool = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", []), *((k.encode(), v.encode()) for k, v in HEADERS.items())]
        await self.to_client(message)
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def refuse(self, error: ApiError, receive: Receive) -> None:
        """Sends the error, unless the answer has begun: then the connection ends without the last part."""
        if self.status:
            logger.warning("request %s ended in its answer: %s", self.id, error.code)
            raise error
        await refusal(error, self.scope)(self.scope, receive, self.send)

    def log(self) -> None:
        took = time.monotonic() - self.began
        # With %r, a path cannot begin a line of its own.
        logger.info("%s %s %r %d %.3f s", self.id, self.scope["method"], self.scope["path"], self.status, took)


def _id_of(scope: Scope) -> str:
    """The request's id, which Ray Serve's proxy gives it, and sends back in the header X-Request-Id."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex[:16]}"


def refusal(error: ApiError, scope: Scope) -> Response:
    """The answer that refuses a request: an event if the client accepts nothing else, as the page does. A browser
    reports any other as a failed load."""
    accepted = Headers(scope=scope).get("accept", "")
    if accepted == EVENTS:
        return Response(event_of(error.body | {"type": "error"}, named=True), 200, error.headers, EVENTS)
    return JSONResponse(error.body, error.status, error.headers)


def _too_large(num_bytes: int, most: int) -> ApiError:
    return ApiError(413, f"the body has {num_bytes} bytes or more, this server takes at most {most}", None, "too_large")
