"""Sheets of pictures with captions below them, for people to look at."""

import io
import unicodedata
from collections.abc import Sequence
from functools import cache

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from pipeline.pages.figures import DPI
from pipeline.pages.fonts import CHINESE_FACE, font_files
from pipeline.runs.paths import RunPaths
from tokenization.config.pictures import Transform
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.pictures import load_picture
from tokenization.vqgan.image_tokenizer import ImageTokenizer

LABEL_COLUMNS, LABEL_LINES = 17, 2
"""Size of a label: what is as wide as a picture. A Chinese character takes two columns."""


def spread(items: list, count: int) -> list:
    """Returns `count` items at equal distances."""
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, min(count, len(items)))]


def true_pictures(paths: RunPaths, sample_ids: list[str], size_px: int) -> dict[str, np.ndarray]:
    """Returns the corpus's own pictures after the transform, uint8 [size_px, size_px, 3], by sample id."""
    wanted = set(sample_ids)
    found = {}
    corpus = Corpus(paths.corpus_source)
    for shard in corpus.shards:
        if not any(sample_id.startswith(f"{shard}/") for sample_id in wanted):
            continue
        for sample in corpus.read(shard):
            sample_id = f"{shard}/{sample.key}"
            if sample_id in wanted and sample.picture:
                found[sample_id] = load_picture(sample.picture, Transform(size_px)).pixels
    return found


def sample_grid(
    table: pd.DataFrame, vqgan: ImageTokenizer, paths: RunPaths, size_px: int, count: int, footer: str
) -> Image.Image:
    """Writes a sheet with one column per sample.

    A column shows the sample's own picture, then for each language the picture generated from its caption and, if there
    is one, the high-resolution picture.

    Args:
        table: rows with sample_id, language, prompt, codes and perhaps high_codes.
        vqgan: decodes the codes.
        paths: paths of the run.
        size_px: side of the samples' own pictures.
        count: number of columns.
        footer: see `picture_sheet`.
    """
    chosen = spread(sorted(table["sample_id"].unique()), count)
    truth = true_pictures(paths, chosen, size_px)
    languages = list(dict.fromkeys(table["language"]))
    columns = []
    for sample_id in chosen:
        cells = [("original", truth[sample_id])]
        for language in languages:
            row = table[(table["sample_id"] == sample_id) & (table["language"] == language)].iloc[0]
            cells.append((row["prompt"], vqgan.decode(np.asarray(row["codes"])[None])[0]))
            if "high_codes" in table:
                pixels = vqgan.decode(np.asarray(row["high_codes"])[None])[0]
                cells.append((f"at {len(pixels)} px", pixels))
        columns.append(cells)
    return picture_sheet(columns, footer)


def picture_sheet(columns: list[list[tuple[str, np.ndarray]]], footer: str = "") -> Image.Image:
    """Draws a sheet of pictures, each with up to two lines of text below it.

    `columns` holds cells of (text, pixels uint8 [S, S, 3]). `footer` is printed below all of them, for example the
    source of the pictures.
    """
    with matplotlib.rc_context({"font.family": _fonts(), "font.size": 7}):
        content = io.BytesIO()
        sheet_figure(columns, footer).savefig(content, dpi=DPI, format="png")
    return Image.open(content).convert("RGB")


def sheet_figure(columns: Sequence[Sequence[tuple[str, np.ndarray]]], footer: str) -> Figure:
    """The sheet of `picture_sheet`, before it is drawn."""
    rows = max(len(cells) for cells in columns)
    figure = Figure(figsize=(1.25 * len(columns), 1.6 * rows))
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, cells in enumerate(columns):
        for row in range(rows):
            axis = axes[row][column]
            axis.axis("off")
            if row < len(cells):
                text, pixels = cells[row]
                axis.imshow(pixels)
                axis.set_title(_label(text), y=-0.07, va="top", parse_math=False)
    line = figure.text(0.005, 0.005, footer, fontsize=6, color="#666666", va="bottom")
    # The pictures' source must be whole below a single one, too. Its letters are some percent wider at another dpi.
    space = line.get_window_extent()
    figure.set_figwidth(max(figure.get_figwidth(), 1.1 * space.width / figure.dpi))
    below = 2.5 * space.height / figure.dpi if footer else 0.0
    figure.set_figheight(figure.get_figheight() + below)
    figure.tight_layout(rect=(0, below / figure.get_figheight(), 1, 1))
    return figure


def _label(text: str) -> str:
    """The text in lines of at most `LABEL_COLUMNS`, broken between words where that is possible; a rest is left out."""
    lines, rest = list[str](), " ".join(text.split())
    while rest and len(lines) < LABEL_LINES:
        whole = rest[: _letters(rest, LABEL_COLUMNS)]
        is_last = len(lines) == LABEL_LINES - 1
        if len(whole) == len(rest):
            lines.append(rest)
            break
        if is_last:
            lines.append(f"{rest[: _letters(rest, LABEL_COLUMNS - 1)].rstrip()}…")
            break
        end = whole.rfind(" ") if rest[len(whole)] != " " else len(whole)
        end = end if end > 0 else len(whole)
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return "\n".join(lines)


def _letters(text: str, columns: int) -> int:
    """How many letters of the text fit into so many columns."""
    widths = np.cumsum([1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text])
    return int(np.searchsorted(widths, columns, side="right"))


@cache
def _fonts() -> list[str]:
    """Returns DejaVu Sans and, if its package is installed, the font with Chinese characters. Matplotlib before 3.11
    knows only the first face of a file."""
    names = []
    for file in font_files():
        font_manager.fontManager.addfont(file)
        faces = {entry.name for entry in font_manager.fontManager.ttflist if entry.fname == file}
        names.append(CHINESE_FACE if CHINESE_FACE in faces else font_manager.FontProperties(fname=file).get_name())
    return ["DejaVu Sans", *names]
