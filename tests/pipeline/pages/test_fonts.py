"""Chinese text on a page can be read on a machine without Chinese fonts: the page brings the characters along."""

import base64
import io
import re

from fontTools.ttLib import TTFont

from pipeline.pages.fonts import embedded_font
from pipeline.pages.html import page_of


def test_a_page_brings_the_chinese_characters_that_it_shows_and_no_others() -> None:
    page = page_of("title", ["<p>a red cat, 红猫：「猫」</p>"])
    (content,) = re.findall(r"url\(data:font/otf;base64,([^)]+)\)", page)
    font = TTFont(io.BytesIO(base64.b64decode(content)))
    assert set(font.getBestCmap()) == set(map(ord, "红猫：「」"))
    assert len(content) < 20_000


def test_a_page_without_chinese_text_has_no_font() -> None:
    assert embedded_font("plain text, café, № 5") == "" and "@font-face" not in page_of("title", ["<p>text</p>"])
