"""An S3 server in a process of its own whose listings are made up: prefixes of as many numbered keys as are wanted."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from tests.support.checkout import CHECKOUT

PAGE = 1000
ITEM = (
    "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;0&quot;</ETag>"
    "<Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>"
)

Prefixes = dict[str, tuple[str, int]]
"""The ending and the number of the keys under each prefix: PREFIX0000000ENDING and so on."""


class ListingServer:
    """Serves as a context manager. What is written is kept, and not listed."""

    def __init__(self, prefixes: Prefixes) -> None:
        words = [f"{prefix}={ending}={count}" for prefix, (ending, count) in prefixes.items()]
        command = [sys.executable, "-m", "tests.support.listing_server", *words]
        self._process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def __enter__(self) -> "ListingServer":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def set_environment(self) -> None:
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ.update(keys | {"AWS_ENDPOINT_URL": self.url})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    prefixes: ClassVar[Prefixes] = {}
    written: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if "list-type" in query:
            self._answer(200, page(self.prefixes, query.get("prefix", ""), query.get("start-after", "")))
        elif address.path in self.written:
            self._answer(200, self.written[address.path])
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_PUT(self) -> None:
        address = urlsplit(self.path)
        part = parse_qs(address.query).get("partNumber", [""])[0]
        self.written[address.path + (f"#{int(part):05d}" if part else "")] = self._body()
        self._answer(200, b"")

    def do_POST(self) -> None:
        """Begins an upload in parts, or joins them."""
        self._body()
        path = urlsplit(self.path).path
        parts = sorted(name for name in self.written if name.startswith(f"{path}#"))
        if parts:
            self.written[path] = b"".join(map(self.written.pop, parts))
            self._answer(200, b"<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>")
        else:
            self._answer(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")

    def _body(self) -> bytes:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") != "aws-chunked":
            return content
        whole, rest = b"", content
        while rest:  # each chunk is its length in hexadecimal digits, a line's end, its bytes, and a line's end
            length, _, rest = rest.partition(b"\r\n")
            size = int(length.partition(b";")[0] or b"0", 16)
            if not size:
                break
            whole, rest = whole + rest[:size], rest[size + 2 :]
        return whole

    def log_message(self, *words: Any) -> None:
        pass

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def page(prefixes: Prefixes, wanted: str, after: str) -> bytes:
    """A page of the keys that begin with `wanted` and follow `after`."""
    keys: list[str] = []
    for prefix, (ending, count) in sorted(prefixes.items(), key=lambda item: item[0] + "0"):
        if prefix.startswith(wanted):
            first = first_after(prefix, ending, count, after)
            keys += [f"{prefix}{number:07d}{ending}" for number in range(first, min(count, first + PAGE + 1))]
    keys.sort()
    more = "true" if len(keys) > PAGE else "false"
    items = "".join(map(ITEM.format, keys[:PAGE]))
    return f"<ListBucketResult><IsTruncated>{more}</IsTruncated>{items}</ListBucketResult>".encode()


def first_after(prefix: str, ending: str, count: int, after: str) -> int:
    """The number of the first key that follows `after`."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if f"{prefix}{middle:07d}{ending}" > after:
            high = middle
        else:
            low = middle + 1
    return low


def serve(prefixes: Prefixes) -> None:
    Handler.prefixes = prefixes
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    parts = [word.split("=") for word in sys.argv[1:]]
    serve({prefix: (ending, int(count)) for prefix, ending, count in parts})
