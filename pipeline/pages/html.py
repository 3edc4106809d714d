"""Parts of HTML pages. A page is a single file with embedded pictures, readable on a phone."""

import base64
import html
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import cycle

import pandas as pd

from pipeline.pages.fonts import embedded_font

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222;
       overflow-wrap: break-word }
img { max-width: 100%; border: 1px solid #ddd; box-sizing: border-box }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: 1em 0 }
td, th { border: 1px solid #ccc; padding: .25em .7em; text-align: right }
td:first-child, th:first-child { text-align: left }
.rows td:not(:first-child) { overflow-wrap: anywhere }
.picture { display: inline-block; max-width: 100%; overflow-x: auto; position: relative; vertical-align: top }
.picture input { position: absolute; opacity: 0 }
.picture img { cursor: zoom-in; vertical-align: top }
.picture input:checked + img { max-width: none; cursor: zoom-out }
.picture input:focus-visible + img { outline: 2px solid #06c }
h2 { margin-top: 2em }
.note { color: #666; font-size: 13px }
@media (max-width: 600px) {
  td, th { overflow-wrap: anywhere }
  table:not(.rows) td:first-child { min-width: 11em }
  .rows thead { display: none }
  .rows, .rows tbody, .rows tr, .rows td { display: block; border: 0 }
  .rows tr { border: 1px solid #ccc; margin-bottom: .7em; padding: .3em .6em }
  .rows td { display: flex; justify-content: space-between; gap: 1em; padding: .1em 0; overflow-wrap: anywhere }
  .rows td::before { content: attr(data-label); color: #666; text-align: left; flex: none; max-width: 50% }
}
"""
FEW_COLUMNS = 2
"""A table of more columns becomes a list of its rows on a phone."""


def page_of(title: str, parts: Iterable[str], refresh_s: int = 0) -> str:
    """Returns a page, which a browser loads again after `refresh_s` seconds if that is above 0."""
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>"
    if refresh_s:
        head += f"<meta http-equiv=refresh content={refresh_s}>"
    # An empty icon: otherwise browsers request one from the server and log an error.
    body = "".join(parts)
    style = STYLE + embedded_font(body)
    head += f"<link rel=icon href='data:,'><title>{html.escape(title)}</title><style>{style}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>"


def table_of(table: pd.DataFrame) -> str:
    """Returns a table. On a phone, one of many columns becomes a list of its rows, with the columns' names in front of
    the values; another one scrolls if it is wider than the screen."""
    markup = table.to_html(index=False, border=0, escape=True)
    if len(table.columns) > FEW_COLUMNS:
        labels = cycle(html.escape(str(name), quote=True) for name in table.columns)
        markup = re.sub("<td>", lambda _: f'<td data-label="{next(labels)}">', markup)
        markup = markup.replace('class="dataframe"', 'class="rows"', 1)
    return f"<div class=wide>{markup}</div>"


def image_of(png: bytes, what: str) -> str:
    """Returns an embedded picture, which a click or tap shows in its full size, and another one fits to the window
    again: browsers open no links to embedded pictures. `what` describes it for screen readers."""
    name = html.escape(what)
    picture = f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    return f'<label class=picture><input type=checkbox aria-label="{name}, full size">{picture}</label>'


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, a text, a table and PNG pictures."""

    title: str
    text: str
    table: pd.DataFrame | None = None
    pictures: list[bytes] = field(default_factory=list)

    def parts(self) -> list[str]:
        """Returns the parts for `page_of`."""
        found = [f"<h2>{html.escape(self.title)}</h2><p>{html.escape(self.text)}</p>"]
        found += [table_of(self.table)] if self.table is not None else []
        return found + [image_of(picture, self.title) for picture in self.pictures]
