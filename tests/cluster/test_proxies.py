"""Requests to a head's dashboard reach it, whatever proxy the environment names."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray

from pipeline.runtime.ray_private import job_client
from tests.support.ports import free_port


class Dashboard(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = json.dumps({"version": "9", "ray_version": ray.__version__, "ray_commit": "x"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None:
        """Says nothing."""


@pytest.fixture
def dashboard() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_proxy_in_the_environment_is_not_asked_for_the_dashboard(
    dashboard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert job_client(dashboard, 5.0).get_version() == "9"
