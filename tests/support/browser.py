"""Opens a page in a real browser at the size of a phone and of a screen."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright

from tests.support.checkout import CHECKOUT

SCREENSHOTS = CHECKOUT / "runs" / "screenshots"
"""Kept for whoever looks at what a test saw; `runs/` is not in git."""
PHONE, SCREEN = ViewportSize(width=375, height=812), ViewportSize(width=1280, height=900)


@dataclass(frozen=True)
class Seen:
    """The observations on a page: console messages, elements whose content is wider than they are, pictures with their
    drawn width, widths in px."""

    errors: list[str]
    cut: list[str]
    pictures: list[dict]
    page_px: int
    window_px: int
    screenshot: Path
    full_px: tuple[int, int]


def errors_of(page: Page) -> list[str]:
    """A list that grows with each error that the page meets."""
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(f"failed: {request.url}"))
    return errors


def look_at(page_file: Path, name: str) -> dict[str, Seen]:
    """Opens the page twice, as `phone` and as `screen`."""
    chromium = shutil.which("chromium")
    assert chromium, "the Debian package chromium is missing: apt-get install chromium"
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    seen = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for device, viewport in (("phone", PHONE), ("screen", SCREEN)):
            page = browser.new_page(viewport=viewport)
            errors = errors_of(page)
            page.goto(page_file.absolute().as_uri())
            page.wait_for_load_state("networkidle")
            pictures = page.evaluate(
                "[...document.images].map(i => ({alt: i.alt, natural: i.naturalWidth, width: i.clientWidth}))"
            )
            page_px, window_px = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
            cut = page.evaluate(
                "[...document.body.querySelectorAll('*')].filter(e => e.clientWidth"
                " && e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML.slice(0, 200))"
            )
            screenshot = SCREENSHOTS / f"{name}-{device}.png"
            page.screenshot(path=screenshot, full_page=True)
            page.locator("img").first.click()
            drawn_px, own_px = page.evaluate("[document.images[0].clientWidth, document.images[0].naturalWidth]")
            seen[device] = Seen(errors, cut, pictures, page_px, window_px, screenshot, (drawn_px, own_px))
            page.close()
        browser.close()
    return seen


def check_page(page_file: Path, name: str, num_pictures: int) -> None:
    """Checks that the console is empty, every picture is drawn, in full size after a click, and nothing is wider than
    the window."""
    for device, seen in look_at(page_file, name).items():
        assert seen.errors == [], f"{name} on a {device}"
        assert seen.cut == [], f"{name} on a {device}: wider than the place they have"
        assert len(seen.pictures) == num_pictures, [picture["alt"] for picture in seen.pictures]
        assert all(picture["natural"] > 100 and picture["width"] > 100 for picture in seen.pictures), seen.pictures
        assert seen.page_px <= seen.window_px, f"{name} is {seen.page_px} px wide on a {device} of {seen.window_px} px"
        assert seen.full_px[0] == seen.full_px[1], f"{name} on a {device}: a click shows no picture in full size"
        assert os.path.getsize(seen.screenshot) > 5000
