"""A WSGI application that forwards requests to another server."""

from collections.abc import Callable, Iterable
from http.client import HTTPConnection
from urllib.parse import urlsplit

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade")


class Forwarding:
    """Forwards to the server at `url`, without a path, and gives its answers back as they are."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url).netloc

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        names = {key[5:].replace("_", "-"): value for key, value in environ.items() if key.startswith("HTTP_")}
        names |= {"Content-Type": environ["CONTENT_TYPE"]} if environ.get("CONTENT_TYPE") else {}
        headers = {name: value for name, value in names.items() if name.lower() not in HOP_BY_HOP}
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        connection = HTTPConnection(self._place, timeout=60)
        connection.request(environ["REQUEST_METHOD"], environ["RAW_URI"], body, headers)
        answer = connection.getresponse()
        content = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        if environ["REQUEST_METHOD"] != "HEAD":
            kept = [(name, value) for name, value in kept if name.lower() != "content-length"]
            kept.append(("Content-Length", str(len(content))))
        connection.close()
        start_response(f"{answer.status} {answer.reason}", kept)
        return [content]
