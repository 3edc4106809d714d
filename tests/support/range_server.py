"""Serves the files of a folder as the objects of an S3 bucket, whole or in ranges, and counts what it sends."""

import re
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.ports import serve_in_thread

BUCKET = "corpus"
RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class RangeServer:
    """Serves as a context manager.

    Attributes:
        sent: bytes sent of each object.
    """

    def __init__(self, folder: Path) -> None:
        self.sent = Counter[str]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(with_content=False)

            def do_GET(self) -> None:
                self._answer(with_content=True)

            def _answer(self, with_content: bool) -> None:
                name = self.path.partition("?")[0].removeprefix(f"/{BUCKET}/")
                size = (folder / name).stat().st_size
                asked = RANGE.match(self.headers.get("Range", ""))
                start, stop = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
                self.send_response(206 if asked else 200)
                self.send_header("ETag", '"0"')
                self.send_header("Content-Length", str(stop - start))
                self.end_headers()
                if with_content:
                    outer.sent[name] += stop - start
                    with (folder / name).open("rb") as file:
                        file.seek(start)
                        self.wfile.write(file.read(stop - start))

            def log_message(self, *words: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "RangeServer":
        serve_in_thread(self._server)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()

    def environment(self) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        return keys | {"AWS_ENDPOINT_URL": self.url}
