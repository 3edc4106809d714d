"""Illustrated lists of OpenMoji drawings, English and Chinese: interleaved documents for joint generation.

The layout is that of `tokenization.corpora.documents`: one JSONL file, with the pictures in the same folder.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenization.demo.openmoji import Drawing, render
from tokenization.files.atomic_writing import write_atomically

LISTS_FILE = "lists.jsonl"
TITLES = {"en": "{group}, list {number}", "zh": "{group}，列表{number}"}
ITEMS = {"en": "\n{place}. {name}: ", "zh": "\n{place}. {name}："}


@dataclass(frozen=True)
class IllustratedList:
    """A title and some drawings with their names, in one language."""

    language: str
    group: str
    title: str
    drawings: list[Drawing]


def illustrated_lists(
    drawings: list[Drawing], groups: tuple[str, ...], lists_per_group: int, drawings_per_list: int
) -> list[IllustratedList]:
    """Makes `lists_per_group` lists per group and language, of the group's drawings without skin tone, in order."""
    lists = []
    for group in groups:
        members = sorted((each for each in drawings if each.group == group and each.group_rank >= 0), key=_rank)
        for number in range(lists_per_group):
            chosen = members[number * drawings_per_list : (number + 1) * drawings_per_list]
            for language, title in TITLES.items():
                lists.append(IllustratedList(language, group, title.format(group=group, number=number + 1), chosen))
    return lists


def write_lists(path: Path, lists: list[IllustratedList], size_px: int) -> None:
    """Renders the drawings at `size_px` into the folder of `path`, then writes the documents to `path` atomically."""
    for drawing in {drawing.code_points: drawing for each in lists for drawing in each.drawings}.values():
        _write(path.with_name(_picture_name(drawing)), render(drawing.svg_path, size_px))
    lines = [json.dumps(document(each, number), ensure_ascii=False) + "\n" for number, each in enumerate(lists)]
    _write(path, "".join(lines).encode())


def document(each: IllustratedList, number: int) -> dict:
    """Makes a row of the JSONL file: the title, then a line and a picture for each drawing."""
    segments: list[dict[str, str]] = []
    text = each.title
    for place, drawing in enumerate(each.drawings, start=1):
        name = asdict(drawing)[f"caption_{each.language}"]
        segments.append({"text": text + ITEMS[each.language].format(place=place, name=name)})
        segments.append({"image": _picture_name(drawing)})
        text = ""
    return {"id": f"list{number}", "language": each.language, "group": each.group, "segments": segments}


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda partial: partial.write_bytes(content))


def _picture_name(drawing: Drawing) -> str:
    return f"{drawing.code_points}.png"


def _rank(drawing: Drawing) -> int:
    return drawing.group_rank
