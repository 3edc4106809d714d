"""What a sheet of pictures says below each of them can be read."""

from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipeline.pages.sheets import _fonts, _label, sheet_figure

TEXTS = [
    "Miscellaneous Symbols and Pictographs, list 1",
    "Supplemental Symbols and Pictographs,列表 2",
    "杂项符号和象形文字，列表3，很长很长的一行",
    "Transport",
    "MAN IN MOTORIZED WHEELCHAIR FACING RIGHT",
]


def test_labels_of_neighbours_do_not_overlap_and_are_not_cut_off_by_the_sheets_edge() -> None:
    cells = [[(text, np.full((8, 8, 3), 200, np.uint8))] * 3 for text in TEXTS]
    with matplotlib.rc_context({"font.family": _fonts(), "font.size": 7}):
        figure = sheet_figure(cells, "Drawings: somebody's")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        width, _ = canvas.get_width_height()
        boxes = [axis.title.get_window_extent() for axis in figure.axes]
    for row in range(3):
        of_row = boxes[row * len(TEXTS) : (row + 1) * len(TEXTS)]
        assert of_row[0].x0 >= 0 and of_row[-1].x1 <= width
        for left, right in pairwise(of_row):
            assert left.x1 < right.x0
        if row:
            assert of_row[0].y1 < boxes[(row - 1) * len(TEXTS)].y0
            assert figure.axes[row * len(TEXTS)].get_window_extent().y1 < boxes[(row - 1) * len(TEXTS)].y0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("a red cow", "a red cow"),
        ("Miscellaneous Symbols and Pictographs", "Miscellaneous\nSymbols and Pict…"),
        ("a photo of a red cow", "a photo of a red\ncow"),
        ("keycap\n #", "keycap #"),
        ("杂项符号和象形文字列表三", "杂项符号和象形文\n字列表三"),
        ("Pneumonoultramicroscopicsilicovolcanoconiosis", "Pneumonoultramicr\noscopicsilicovol…"),
        ("", ""),
    ],
)
def test_a_label_is_broken_between_words_and_its_rest_left_out(text: str, label: str) -> None:
    assert _label(text) == label


def test_the_source_of_the_pictures_is_whole_below_a_single_one() -> None:
    footer = "Drawings: OpenMoji (openmoji.org), CC BY-SA 4.0."
    figure = sheet_figure([[("rocket", np.zeros((8, 8, 3), np.uint8))]], footer)
    FigureCanvasAgg(figure).draw()
    (line,) = [text for text in figure.texts if text.get_text() == footer]
    assert line.get_window_extent().x1 <= figure.bbox.x1 / 1.05, "with room for another dpi"


@pytest.mark.parametrize("columns", [1, 3, 12])
def test_the_source_lies_below_labels_of_two_lines(columns: int) -> None:
    footer = "Drawings: OpenMoji (openmoji.org), CC BY-SA 4.0."
    figure = sheet_figure([[("waving hand medium-dark skin tone", np.zeros((8, 8, 3), np.uint8))]] * columns, footer)
    FigureCanvasAgg(figure).draw()
    (line,) = [text for text in figure.texts if text.get_text() == footer]
    labels = [axis.title.get_window_extent() for axis in figure.axes]
    assert 0 <= line.get_window_extent().y0 < line.get_window_extent().y1 < min(label.y0 for label in labels)
