"""The page in a real browser: types, waits, looks at the pixels, also for wrong input; on a screen and on a phone."""

import asyncio
import io
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, sync_playwright

from pipeline.serving.served_model import ServedModel
from tests.support.browser import PHONE, SCREEN, SCREENSHOTS
from tests.support.pictures import png
from tests.support.small_server import LIMITS, SmallServer, small_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "the Debian package chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


COUNT_GROWING = """
    window.growing = 0;
    new MutationObserver(() => {
        const drawn = [...document.querySelectorAll('canvas')].filter(one => one.dataset.codes);
        window.growing = Math.max(window.growing, drawn.length);
    }).observe(document.querySelector('#results'), {childList: true, subtree: true, attributes: true});
"""
"""Counts how many canvases have had codes at once. The test's pictures take a tenth of a second."""


class Visitor:
    """Someone at the page. The page forbids code from text, so that its state is asked for again and again."""

    def __init__(self, browser: Browser, url: str, phone: bool = False) -> None:
        self.page: Page = browser.new_page(viewport=PHONE if phone else SCREEN)
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(url)
        self.wait("!document.querySelector('#main').hidden || !document.querySelector('#token-form').hidden")

    def wait(self, condition: str) -> None:
        deadline = time.monotonic() + 60
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, (condition, self.errors, self.page.inner_text("body"))
            time.sleep(0.02)

    def wait_for_end(self) -> None:
        self.wait("/^Done/.test(document.querySelector('#status').textContent)")

    def pixels(self, selector: str) -> np.ndarray:
        """What is drawn in an element, uint8 [H, W, 3]."""
        shot = self.page.locator(selector).first.screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))

    def refusal(self) -> str:
        self.wait("document.querySelector('#error').textContent !== ''")
        return self.page.inner_text("#error")

    def leave(self, name: str) -> None:
        """Checks that the page is not wider than the window, and that the console is empty."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"serve-{name}.png", full_page=True)
        width, window = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert width <= window and self.errors == []
        self.page.close()


@pytest.mark.parametrize("phone", [False, True], ids=["screen", "phone"])
def test_four_pictures_come_code_by_code_and_their_address_brings_them_back(
    server: SmallServer, browser: Browser, phone: bool
) -> None:
    visitor = Visitor(browser, server.url, phone)
    visitor.page.evaluate("document.querySelector('#settings').open = true")
    assert visitor.page.input_value("#n") == "1", "at temperature 0 four of them would be equal"
    visitor.page.fill("#temperature", "1")
    visitor.page.select_option("#n", "4")
    visitor.page.fill("#prompt", "red 圆")
    visitor.page.evaluate(COUNT_GROWING)
    for _ in range(50):  # the first pictures may end before the page has its picture of every code
        visitor.page.keyboard.press("Enter")
        visitor.wait_for_end()
        if visitor.page.evaluate("window.growing") == 4:
            break
    assert visitor.page.evaluate("window.growing") == 4, "no codes were seen on four canvases at once"
    assert visitor.page.locator("#results img").count() == 4
    drawn = [visitor.pixels(f"figure:nth-child({number}) img") for number in (1, 2)]
    assert drawn[0].std() > 1 and not np.array_equal(drawn[0], drawn[1]), "the pictures have colours, and differ"
    address, sources = visitor.page.url, visitor.page.evaluate("[...document.images].slice(-4).map(one => one.src)")
    assert "seed=" in address and visitor.hosts == {server.url.removeprefix("http://")}
    visitor.leave(f"pictures-{'phone' if phone else 'screen'}")
    again = Visitor(browser, address, phone)
    again.wait_for_end()
    assert again.page.evaluate("[...document.images].slice(-4).map(one => one.src)") == sources
    again.page.close()


def test_wrong_input_is_said_on_the_page_and_never_in_the_console(server: SmallServer, browser: Browser) -> None:
    visitor = Visitor(browser, server.url)
    visitor.page.click("#picture .go")
    assert visitor.refusal() == "Say what to draw."
    visitor.page.fill("#prompt", "a " * 40)
    visitor.page.keyboard.press("Enter")
    visitor.wait("document.querySelector('#error').textContent.includes('at most 12')")
    visitor.page.fill("#prompt", "a")
    visitor.page.fill("#seed", "-3")
    visitor.page.keyboard.press("Enter")
    visitor.wait("document.querySelector('#error').textContent.includes('The seed is -3')")
    visitor.page.click("text=Caption")
    visitor.page.set_input_files("#file", FilePayload(name="a.png", mimeType="image/png", buffer=b"no picture"))
    visitor.wait("document.querySelector('#error').textContent.includes('cannot be captioned')")
    visitor.page.set_input_files("#file", FilePayload(name="a.txt", mimeType="text/plain", buffer=b"text"))
    assert visitor.refusal() == "a.txt is no picture."
    visitor.leave("wrong")


def test_a_picture_does_not_wait_for_the_patches_of_its_codes(
    served: ServedModel, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_server(served) as server:
        made, go_on = server.replicas.patches, threading.Event()

        async def slow() -> bytes:
            await asyncio.to_thread(go_on.wait)
            return await made()

        monkeypatch.setattr(server.replicas, "patches", slow)
        visitor = Visitor(browser, server.url)
        visitor.page.fill("#prompt", "a")
        visitor.page.keyboard.press("Enter")
        visitor.wait_for_end()
        assert visitor.page.locator("#results img").count() == 1
        go_on.set()
        visitor.wait("!loading && patches !== null")
        visitor.leave("no-patches")


def test_a_link_that_is_pasted_into_the_open_page_is_drawn_and_wrong_values_in_it_are_left(
    server: SmallServer, browser: Browser
) -> None:
    visitor = Visitor(browser, server.url + "/#file=x&n=3&temperature=hot&top_k=-1&max_pictures=99&mode=picture")
    fields = ("#n", "#temperature", "#top_k", "#max_pictures")
    usual = ["1", "0", str(server.served.top_k), str(LIMITS.max_document_pictures)]
    assert [visitor.page.input_value(field) for field in fields] == usual
    visitor.page.evaluate("location.hash = '#prompt=red&n=4&seed=7&temperature=0.5&results=x'")
    visitor.wait_for_end()
    assert visitor.page.locator("#results img").count() == 4 and "seed=7" in visitor.page.url
    visitor.page.evaluate("location.hash = '#mode=document&beginning=red&max_pictures=0&document_seed=3'")
    visitor.wait("document.querySelector('#results .document') !== null")
    visitor.wait_for_end()
    assert visitor.page.input_value("#max_pictures") == "0" and visitor.page.locator("#document").is_visible()
    visitor.leave("link")


def test_a_picture_is_described_and_a_document_grows(server: SmallServer, browser: Browser, tmp_path: Path) -> None:
    visitor = Visitor(browser, server.url)
    visitor.page.keyboard.press("Shift+Tab")
    visitor.page.keyboard.press("ArrowRight")
    assert visitor.page.locator("#caption").is_visible(), "arrow keys choose what to do"
    (tmp_path / "a.png").write_bytes(png((48, 48)))
    visitor.page.set_input_files("#file", tmp_path / "a.png")
    visitor.wait_for_end()
    assert visitor.page.locator("#results .answer").count() == 1 and visitor.page.locator("#preview").is_visible()
    visitor.page.keyboard.press("Escape")
    visitor.page.click("text=Document")
    visitor.page.fill("#beginning", "red circle")
    visitor.page.keyboard.press("Enter")
    visitor.wait("document.querySelector('#results .document') !== null")
    visitor.wait_for_end()
    assert visitor.page.inner_text("#results").startswith("red circle")
    visitor.leave("document")


def test_the_page_asks_for_the_token_of_a_server_that_has_one(server: SmallServer, browser: Browser) -> None:
    with small_server(server.served, token="0123456789abcdef") as guarded:
        visitor = Visitor(browser, guarded.url)
        visitor.page.fill("#token", "wrong")
        visitor.page.keyboard.press("Enter")
        visitor.wait("document.querySelector('#model').textContent == 'That is another token.'")
        visitor.page.fill("#token", "0123456789abcdef")
        visitor.page.keyboard.press("Enter")
        visitor.wait("!document.querySelector('#main').hidden")
        visitor.page.fill("#prompt", "a")
        visitor.page.keyboard.press("Enter")
        visitor.wait_for_end()
        visitor.leave("token")
