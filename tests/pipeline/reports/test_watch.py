"""While a run goes on, its report is served on this machine."""

import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline.errors import InputError, UsageError
from pipeline.reports import watch
from pipeline.reports.watch import report_server

Pages = list[str | InputError]


@pytest.fixture
def pages() -> Pages:
    """The pages that are made, one after the other."""
    return ["one", InputError("the ledger <is> torn"), "two"]


@pytest.fixture
def server(pages: Pages, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    def make() -> str:
        page = pages.pop(0)
        if isinstance(page, InputError):
            raise page
        return page

    (tmp_path / "run" / "samples").mkdir(parents=True)
    server = report_server(make, tmp_path / "run", 0)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def asked(server: ThreadingHTTPServer, path: str = "/", method: str = "GET") -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}", method=method)
    with opener.open(request, timeout=10) as answer:
        text: str = answer.read().decode()
        assert method == "GET" or int(answer.headers["Content-Length"]) > 0
    return text


def test_the_page_is_made_anew_when_it_is_old_and_a_failure_is_shown_and_passes(
    server: ThreadingHTTPServer, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(server) == asked(server) == "one" and len(pages) == 2, "many browsers cost one page"
    monkeypatch.setattr(watch, "REFRESH_S", 0)
    assert "the ledger &lt;is&gt; torn" in asked(server)
    assert asked(server) == "two"


def test_the_pages_that_the_report_links_to_are_served(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "run" / "samples" / "my lists.html").write_text("all lists")
    assert asked(server, "/samples/my%20lists.html") == "all lists"
    assert asked(server, "/?from=a-bookmark") == "one" and asked(server, method="HEAD") == ""


@pytest.mark.parametrize("path", ["/../secret.html", "/samples/..%2F..%2Fsecret.html", "/figures.json", "/x%00.html"])
def test_nothing_else_is_served(server: ThreadingHTTPServer, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.html").write_text("mine")
    (tmp_path / "run" / "figures.json").write_text("{}")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        asked(server, path)


def test_a_reader_that_leaves_leaves_no_traceback(
    server: ThreadingHTTPServer, pages: Pages, capfd: pytest.CaptureFixture[str]
) -> None:
    pages[0] = "x" * 20_000_000  # more than the sockets hold
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reader.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert reader.recv(10)
    assert len(asked(server)) == 20_000_000
    server.shutdown()
    server.server_close()  # waits for the answers that go on
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_refused(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--port {server.server_port}: Address already in use"):
        report_server(lambda: "", tmp_path, server.server_port)
