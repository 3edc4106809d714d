"""Chinese text on a page can be read on a machine without Chinese fonts: the page brings the characters along."""

import base64
import io
import re

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from pipeline.pages.fonts import embedded_font, font_files
from pipeline.pages.html import page_of
from pipeline.pages.sheets import _fonts


@pytest.mark.slow
def test_a_page_brings_the_chinese_characters_that_it_shows_and_no_others() -> None:
    page = page_of("title", ["<p>a red cat, 红猫：「猫」</p>"])
    (content,) = re.findall(r"url\(data:font/otf;base64,([^)]+)\)", page)
    font = TTFont(io.BytesIO(base64.b64decode(content)))
    assert set(font.getBestCmap()) == set(map(ord, "红猫：「」"))
    assert len(content) < 20_000
    assert "CJK SC" in font["name"].getDebugName(4)


def test_a_page_without_chinese_text_has_no_font() -> None:
    assert embedded_font("plain text, café, № 5") == "" and "@font-face" not in page_of("title", ["<p>text</p>"])


def test_a_sheet_has_the_chinese_forms_of_characters_and_not_the_japanese() -> None:
    chinese, japanese = FontProperties(family=_fonts()[1]), FontProperties(fname=font_files()[0])
    sheets, japans = (TextPath((0, 0), "\u9aa8", size=64, prop=face).vertices for face in (chinese, japanese))
    assert sheets.shape != japans.shape or not np.allclose(sheets, japans)
