"""While a run goes on, its report is served on this machine."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
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
def server(pages: Pages) -> Iterator[ThreadingHTTPServer]:
    def make() -> str:
        page = pages.pop(0)
        if isinstance(page, InputError):
            raise page
        return page

    server = report_server(make, 0)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def asked(server: ThreadingHTTPServer, path: str = "/") -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{server.server_port}{path}", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def test_the_page_is_made_anew_when_it_is_old_and_a_failure_is_shown_and_passes(
    server: ThreadingHTTPServer, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(server) == asked(server) == "one" and len(pages) == 2, "many browsers cost one page"
    monkeypatch.setattr(watch, "REFRESH_S", 0)
    assert "the ledger &lt;is&gt; torn" in asked(server)
    assert asked(server) == "two"


def test_nothing_else_is_served(server: ThreadingHTTPServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        asked(server, "/../../etc/passwd")


def test_a_port_that_is_taken_is_refused(server: ThreadingHTTPServer) -> None:
    with pytest.raises(UsageError, match=f"--port {server.server_port}: Address already in use"):
        report_server(lambda: "", server.server_port)
