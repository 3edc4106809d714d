"""Chinese text on pages and sheets: few machines have a font with Chinese characters."""

import base64
import importlib.metadata
import io
import re
from functools import cache

CJK_FONT_PACKAGE = "noto-cjk-sans-otc"
"""Installed with the extra `demo`."""
CHINESE = re.compile("[\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
"""Chinese characters, their punctuation and full-width forms."""
REGULAR = "Regular"
CHINESE_FACE = "Noto Sans CJK SC"
"""The face with the forms of mainland China: a file has one for each region, the first of them Japan's."""
FULL_NAME = 4
"""The number of a face's full name in its table of names."""


def font_files() -> list[str]:
    """Returns the files of the font package; none if it is not installed."""
    try:
        files = importlib.metadata.files(CJK_FONT_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [str(file.locate()) for file in files if file.suffix == ".ttc"]


def embedded_font(text: str) -> str:
    """Returns CSS with a font that has the Chinese characters of a text, about 0.3 kB each; empty if it has none, or if
    there is no font."""
    characters = "".join(sorted(set(CHINESE.findall(text))))
    content = _subset(characters) if characters else ""
    if not content:
        return ""
    source = f"url(data:font/otf;base64,{content})"
    return (
        f"@font-face {{ font-family: chinese; src: {source} }} body {{ font-family: system-ui, sans-serif, chinese }}"
    )


@cache
def _subset(characters: str) -> str:
    """A font with these characters alone, in base64; empty if there is none to take them from."""
    file = next((file for file in font_files() if REGULAR in file), "")
    if not file:
        return ""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTCollection

    faces = TTCollection(file, lazy=True).fonts
    font = next(face for face in faces if face["name"].getDebugName(FULL_NAME) == CHINESE_FACE)
    subsetter = Subsetter(Options(layout_features=[], notdef_outline=True, hinting=False))
    subsetter.populate(text=characters)
    subsetter.subset(font)
    content = io.BytesIO()
    font.save(content)
    return base64.b64encode(content.getvalue()).decode()
