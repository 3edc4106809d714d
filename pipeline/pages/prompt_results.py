"""Writes generated results for prompts: pictures, an index, a grid, and a page for illustrated documents."""

import base64
import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.pages.sheets import picture_sheet, spread

INDEX_PARQUET, INDEX_JSONL, GRID_FILE, PAGE_FILE = "index.parquet", "index.jsonl", "grid.png", "index.html"
PICTURES_FOLDER = "pictures"
CODE_COLUMNS = ("codes", "high_codes")
"""Columns that only the parquet index has."""
GRID_COLUMNS = 12


def new_folder(parent: Path) -> Path:
    """Makes a new folder `0001`, `0002`, ... under `parent`; earlier results stay."""
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0)
    while True:
        number += 1
        folder = parent / f"{number:04d}"
        try:
            folder.mkdir()
        except FileExistsError:  # another job made it first
            continue
        return folder


def save_picture(folder: Path, name: str, png: bytes) -> str:
    """Writes a PNG under `folder` and returns its path there."""
    path = folder / PICTURES_FOLDER / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(png)
    return path.relative_to(folder).as_posix()


def file_name(number: int, text: str) -> str:
    """Returns the number followed by the letters and digits of the text; at most 180 bytes."""
    readable = "".join(letter if letter.isalnum() else "_" for letter in text)
    return f"{number:06d}_" + readable.encode()[:170].decode(errors="ignore")


def save_index(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes both indices. Only the parquet has the codes; a document's `segments` are JSON text in it."""
    texts = [{"segments": json.dumps(row["segments"], ensure_ascii=False)} if "segments" in row else {} for row in rows]
    pd.DataFrame([row | text for row, text in zip(rows, texts, strict=True)]).to_parquet(folder / INDEX_PARQUET)
    with (folder / INDEX_JSONL).open("w", encoding="utf-8") as lines:
        for row in rows:
            plain = _without_codes(row)
            if "segments" in row:
                plain["segments"] = [_without_codes(segment) for segment in row["segments"]]
            lines.write(json.dumps(plain, ensure_ascii=False) + "\n")


def _without_codes(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in CODE_COLUMNS}


def save_grid(folder: Path, columns: list[list[tuple[str, str]]], footer: str) -> None:
    """Writes a sheet of some of the pictures; `columns` holds cells of (text, path under `folder`)."""
    cells = [
        [(text, np.asarray(Image.open(folder / path).convert("RGB"))) for text, path in column]
        for column in spread(columns, GRID_COLUMNS)
    ]
    picture_sheet(cells, footer).save(folder / GRID_FILE)


def save_page(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a page with every document and embedded pictures, so that it opens anywhere without a network.

    Each row has `prompt`, `seed` and `segments`: dicts with either `text` or `picture`, a path under `folder`.
    """
    parts = [
        "<!doctype html><meta charset='utf-8'><title>Illustrated documents</title>",
        "<style>body{font-family:sans-serif;max-width:48em;margin:2em auto;line-height:1.5}p{white-space:pre-wrap}"
        "img{max-width:100%;display:block;margin:1em 0}</style>",
    ]
    for row in rows:
        parts.append(f"<h2>{html.escape(row['prompt'])}</h2><p><small>seed {row['seed']}</small></p>")
        for segment in row["segments"]:
            if "picture" in segment:
                content = base64.b64encode((folder / segment["picture"]).read_bytes()).decode()
                parts.append(f"<img alt='' src='data:image/png;base64,{content}'>")
            else:
                parts.append(f"<p>{html.escape(segment['text'])}</p>")
    (folder / PAGE_FILE).write_text("\n".join(parts), encoding="utf-8")
