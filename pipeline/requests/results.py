"""Writes the generated results of a request into its folder."""

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.pages.prompt_results import file_name, save_grid, save_index, save_page, save_picture
from pipeline.requests.request import GenerationRequest
from pipeline.runtime.terminal import say


def save_pictures(request: GenerationRequest, folder: Path, made: Iterable[dict[str, Any]]) -> None:
    """Writes pictures as they arrive, then the indices and the grid."""
    rows = []
    for row in made:
        name = file_name(row["row_number"], row["prompt"])
        picture = {"picture": save_picture(folder, name, row["png"]), "codes": row["drawn_codes"]}
        if request.high:
            picture["high_picture"] = save_picture(folder, f"{name}_high", row["high_png"])
            picture["high_codes"] = row["drawn_high_codes"]
        rows.append(_plain_columns(row) | picture)
    rows.sort(key=lambda row: row["row_number"])
    save_index(folder, [_sampling_values(request) | row for row in rows])
    columns: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        cells = columns.setdefault(row["id"], [])
        cells += [(row["prompt"], row[name]) for name in ("picture", "high_picture") if name in row]
    save_grid(folder, list(columns.values()), request.footer)
    for row in rows[:10]:
        say(f"generate: {row['prompt']!r} is drawn in {folder / row.get('high_picture', row['picture'])}")


def save_captions(request: GenerationRequest, folder: Path, made: Iterable[dict[str, Any]]) -> None:
    """Writes the indices: image, language, caption, and the codes of the image."""
    rows = sorted(made, key=lambda row: row["row_number"])
    save_index(folder, [_plain_columns(row) | {"caption": row["caption"], "codes": row["codes"]} for row in rows])
    for row in rows[:10]:
        say(f"generate: {row['image']}: {row['caption']}")


def save_documents(request: GenerationRequest, folder: Path, made: Iterable[dict[str, Any]]) -> None:
    """Writes pictures as they arrive, then the indices, the page, and a grid if there are pictures."""
    rows = []
    for row in made:
        segments = json.loads(row["segments"])
        for number, segment in enumerate(segments):
            if "png" in segment:
                name = f"{file_name(row['row_number'], row['prompt'])}_{number}"
                segment["picture"] = save_picture(folder, name, base64.b64decode(segment.pop("png")))
        rows.append(_plain_columns(row) | {"segments": segments})
    rows.sort(key=lambda row: row["row_number"])
    settings = _sampling_values(request) | {
        "max_pictures": request.documents.max_pictures,
        "max_text_ids": request.documents.max_text_ids,
    }
    save_index(folder, [settings | row for row in rows])
    save_page(folder, rows)
    pictures = [[(row["prompt"], s["picture"]) for s in row["segments"] if "picture" in s] for row in rows]
    if columns := [column for column in pictures if column]:
        save_grid(folder, columns, request.footer)
    say(f"generate: {sum(map(len, pictures))} pictures in {len(rows)} documents")


def _plain_columns(row: dict[str, Any]) -> dict[str, Any]:
    names = ("row_number", "id", "prompt", "image", "language", "seed")
    values = {name: row[name] for name in names if name in row}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


def _sampling_values(request: GenerationRequest) -> dict[str, Any]:
    values = {name: value for name, value in asdict(request.sampling).items() if name != "seed"}
    return values | ({"num_candidates": request.num_candidates} if request.num_candidates > 1 else {})
