"""Serves a run's report on this machine while the run goes on."""

import html
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import unquote, urlsplit

from pipeline.config.recipe import Recipe
from pipeline.errors import InputError, OutageError, UsageError
from pipeline.pages.html import page_of
from pipeline.reports.run_report import report_page, write_report
from pipeline.runs.paths import RunPaths
from pipeline.runtime.terminal import say

LOOPBACK = "127.0.0.1"
REFRESH_S = 15
"""Seconds after which a browser asks again, and for which a page is kept."""


def watch(recipe: Recipe, paths: RunPaths, port: int) -> None:
    """Serves the report until the job is interrupted, then writes it into the run's folder if there is one.

    Args:
        recipe, paths: recipe and paths of the run, which may not have begun.
        port: port on the loopback address; 0 for a free one.

    Raises:
        UsageError: the port is taken.
    """
    server = report_server(lambda: report_page(recipe, paths, REFRESH_S), paths.run, port)
    address = f"http://{LOOPBACK}:{server.server_port}"
    say(f"report: {address} shows {recipe.name!r}, anew every {REFRESH_S} s; Ctrl-C ends it")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        if paths.run.is_dir():
            say(f"report: {write_report(recipe, paths)}")
    finally:
        server.server_close()


def report_server(make_page: Callable[[], str], folder: Path, port: int) -> ThreadingHTTPServer:
    """Returns a server whose first page is made anew when it is older than `REFRESH_S`.

    A page that cannot be made says why, and the next request tries again.

    Args:
        make_page: makes the first page.
        folder: the run's; the HTML files in it, to which that page has links, are served, too.
        port: see `watch`.

    Raises:
        UsageError: the port is taken.
    """
    pages = _Pages(make_page)

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):  # a reader that has left
                super().handle()

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            content = pages.current().encode() if path == "/" else _file_content(folder, path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing: the job's output has its address alone."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except OSError as error:
        raise UsageError(f"--port {port}: {error.strerror}; name another one, or 0 for a free one") from error


def _file_content(folder: Path, path: str) -> bytes | None:
    """The content of an HTML file in a folder; None if there is none of that path."""
    inside = "\0" not in path and (folder / path.lstrip("/")).resolve()
    if not inside or inside.suffix != ".html" or not inside.is_relative_to(folder.resolve()) or not inside.is_file():
        return None
    return inside.read_bytes()


class _Pages:
    """The newest page. Matplotlib's fonts are not made for threads, so that one request at a time makes it."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make, self._lock, self._page, self._made_at = make, Lock(), "", -float(REFRESH_S)

    def current(self) -> str:
        with self._lock:
            if time.monotonic() - self._made_at >= REFRESH_S:
                try:
                    self._page, self._made_at = self._make(), time.monotonic()
                except (InputError, OutageError) as error:
                    return page_of("MARS on Ray", [f"<p>{html.escape(str(error))}</p>"], REFRESH_S)
            return self._page
