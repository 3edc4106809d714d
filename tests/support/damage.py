"""A corpus of damage, made by rule: pictures of every format and mode, every kind of damage, in every layout."""

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.support.pictures import noise_png

MODES: dict[str, tuple[str, ...]] = {
    "png": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "jpg": ("RGB", "L", "CMYK"),
    "webp": ("RGB", "RGBA"),
    "gif": ("P", "L"),
    "tiff": ("RGB", "RGBA", "L", "1", "P", "CMYK", "I;16", "F", "LAB", "YCbCr"),
    "bmp": ("RGB", "P", "L", "1"),
    "ppm": ("RGB", "L", "1"),
    "jp2": ("RGB", "RGBA", "L"),
    "avif": ("RGB", "RGBA"),
    "tga": ("RGB", "RGBA", "L"),
    "ico": ("RGBA",),
    "dds": ("RGB", "RGBA"),
    "heic": ("RGB", "RGBA"),
    "jxl": ("RGB", "RGBA", "L"),
    "qoi": ("RGB", "RGBA"),
    "sgi": ("RGB", "RGBA", "L"),
    "pcx": ("RGB", "P", "1"),
}
"""Modes in which Pillow writes each format, by the files' ending."""


@cache
def whole_pictures() -> list[tuple[str, bytes]]:
    """A small picture of each format and mode, with its ending."""
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    kinds = Image.registered_extensions()
    found = []
    for suffix, modes in MODES.items():
        for mode in modes:
            stream = io.BytesIO()
            picture = Image.fromarray(pixels)
            picture = _converted(picture, mode)
            picture.save(stream, kinds[f".{suffix}"])
            found.append((suffix, stream.getvalue()))
    return found


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
        assert converted is not None
        return converted
    return picture.convert(mode)


def _flipped(content: bytes, chance: Random, count: int, within: int) -> bytes:
    damaged = bytearray(content)
    for _ in range(count):
        damaged[chance.randrange(min(len(damaged), within))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _replaced(content: bytes, chance: Random, part: Callable[[bytes], bytes]) -> bytes:
    start, stop = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + part(content[start:stop]) + content[stop:]


DAMAGE: dict[str, Callable[[bytes, Random], bytes]] = {
    "none": lambda content, chance: content,
    "cut off": lambda content, chance: content[: chance.randrange(1, len(content))],
    "without its start": lambda content, chance: content[chance.randrange(1, len(content)) :],
    "one bit": lambda content, chance: _flipped(content, chance, 1, len(content)),
    "one bit of the header": lambda content, chance: _flipped(content, chance, 1, 64),
    "many bits": lambda content, chance: _flipped(content, chance, 200, len(content)),
    "many bits of the header": lambda content, chance: _flipped(content, chance, 20, 64),
    "zeros in it": lambda content, chance: _replaced(content, chance, lambda part: bytes(len(part))),
    "a part missing": lambda content, chance: _replaced(content, chance, lambda part: b""),
    "a part twice": lambda content, chance: _replaced(content, chance, lambda part: part * 2),
    "a part reversed": lambda content, chance: _replaced(content, chance, lambda part: part[::-1]),
    "noise behind it": lambda content, chance: content + chance.randbytes(300),
    "noise behind the start": lambda content, chance: content[:12] + chance.randbytes(300),
    "nothing": lambda content, chance: b"",
    "zeros": lambda content, chance: bytes(len(content)),
    "a page": lambda content, chance: b"<!DOCTYPE html><html>404</html>",
    "a pointer": lambda content, chance: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
}
CAPTIONS: tuple[Any, ...] = ("a red cat", "", None, 3, ["one", "two"], [], {"en": "x"}, "\ud800", "猫" * 3000, "a cat")


@dataclass(frozen=True)
class DamagedSample:
    """A key, a picture with its ending, and the value of its caption's column."""

    key: str
    suffix: str
    picture: bytes
    caption: Any


def damaged_samples() -> Iterator[DamagedSample]:
    """Endless samples, in which each damage meets each format and mode, one caption in five is damaged, too."""
    pictures, number = whole_pictures(), 0
    while True:
        for damage in DAMAGE.values():
            for suffix, content in pictures:
                chance = Random(number)
                caption = CAPTIONS[number // 5 % len(CAPTIONS)] if number % 5 == 0 else "a red cat"
                yield DamagedSample(f"{number:06d}", suffix, damage(content, chance), caption)
                number += 1


def write_webdataset(folder: Path, samples: list[DamagedSample], packed: bool = False) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for sample in samples:
            for name, content in (
                (f"{sample.key}.{sample.suffix}", sample.picture),
                (f"{sample.key}.json", json.dumps({"caption": sample.caption}).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    content = stream.getvalue()
    (folder / ("a.tar.gz" if packed else "a.tar")).write_bytes(gzip.compress(content) if packed else content)


def write_parquet(folder: Path, samples: list[DamagedSample], named: bool = False) -> None:
    if named:
        _write_pictures(folder, samples)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = [
        {"bytes": None if named else sample.picture, "path": f"{sample.key}.{sample.suffix}"} for sample in samples
    ]
    captions = [_text(sample.caption) for sample in samples]
    pq.write_table(pa.table({"image": pa.array(pictures, kind), "caption": captions}), folder / "a.parquet")


def write_imagefolder(folder: Path, samples: list[DamagedSample], suffix: str) -> None:
    _write_pictures(folder, samples)
    rows = [{"file_name": f"{one.key}.{one.suffix}", "caption": _text(one.caption) or ""} for one in samples]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    elif suffix == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0].keys())
            table.writeheader()
            table.writerows(rows)


def write_files(folder: Path, samples: list[DamagedSample]) -> None:
    _write_pictures(folder, samples)
    for number, sample in enumerate(samples):
        if number % 2:
            (folder / f"{sample.key}.json").write_text(json.dumps({"caption": sample.caption}))
        else:
            (folder / f"{sample.key}.txt").write_text(_text(sample.caption) or "", encoding="utf-8")


def write_documents(folder: Path, samples: list[DamagedSample]) -> None:
    """Documents of one picture: of several, one damaged picture would hide the others."""
    _write_pictures(folder, samples)
    rows = [
        {"segments": [{"text": _text(sample.caption) or "x"}, {"image": f"{sample.key}.{sample.suffix}"}]}
        for sample in samples
    ]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))


def _write_pictures(folder: Path, samples: list[DamagedSample]) -> None:
    for sample in samples:
        (folder / f"{sample.key}.{sample.suffix}").write_bytes(sample.picture)


def _text(caption: Any) -> str | None:
    """A caption that a column of texts can hold."""
    return caption if isinstance(caption, str) and caption != "\ud800" else None


LAYOUTS: dict[str, Callable[[Path, list[DamagedSample]], None]] = {
    "webdataset": write_webdataset,
    "webdataset packed": lambda folder, samples: write_webdataset(folder, samples, packed=True),
    "parquet": write_parquet,
    "parquet of names": lambda folder, samples: write_parquet(folder, samples, named=True),
    "imagefolder csv": lambda folder, samples: write_imagefolder(folder, samples, "csv"),
    "imagefolder jsonl": lambda folder, samples: write_imagefolder(folder, samples, "jsonl"),
    "imagefolder parquet": lambda folder, samples: write_imagefolder(folder, samples, "parquet"),
    "files": write_files,
    "documents": write_documents,
}


def write_damaged_corpus(folder: Path, layout: str, count: int) -> list[DamagedSample]:
    """Writes `count` damaged samples in a layout, those that other layouts do not get. Returns them."""
    index = list(LAYOUTS).index(layout)
    samples = list(islice(damaged_samples(), index, index + count * len(LAYOUTS), len(LAYOUTS)))
    folder.mkdir(parents=True)
    LAYOUTS[layout](folder, samples)
    return samples


def damaged_containers(folder: Path, layout: str, count: int) -> Iterator[Path]:
    """Yields `count` corpora of good pictures whose shard, or table of metadata, is damaged itself."""
    samples = [DamagedSample(f"{number}", "png", noise_png(number), "a red cat") for number in range(4)]
    damage = [kind for name, kind in DAMAGE.items() if name != "none"]
    for number in range(count):
        corpus = folder / f"{number:04d}"
        corpus.mkdir(parents=True)
        LAYOUTS[layout](corpus, samples)
        containers = [path for path in sorted(corpus.iterdir()) if path.suffix != ".png"]
        target = containers[number % len(containers)]
        target.write_bytes(damage[number % len(damage)](target.read_bytes(), Random(number)))
        yield corpus
