"""Corpora as other tools write them, and the samples that are read from them."""

import json
import tarfile
import unicodedata
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.pictures import noise_png
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.samples import Ignored, Sample

CAPTIONS = ["zero", "one", "two"]


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def write_members(path: Path, members: list[tuple[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            content = json.dumps(content).encode() if isinstance(content, dict) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))


def read_all_of(corpus: Corpus) -> tuple[list[Sample], list[Sample], Counter[str]]:
    """The samples of a corpus, those with a problem, and what is ignored in its shards."""
    found = [one for shard in corpus.shards for one in corpus.read_all(shard)]
    samples = [one for one in found if isinstance(one, Sample)]
    good, bad = ([one for one in samples if bool(one.problem) == is_bad] for is_bad in (False, True))
    return good, bad, Counter(one.reason for one in found if isinstance(one, Ignored))


def problem_of(sample: Sample) -> tuple[str, str]:
    """Reason and message of its problem."""
    assert sample.problem
    return sample.problem


def assert_whole(corpus: Corpus) -> None:
    """All three pictures are there, with their own captions."""
    good, bad, _ = read_all_of(corpus)
    assert not bad and [sample.picture for sample in good] == [noise_png(row) for row in range(3)]
    assert [sample.metadata.get("caption") or sample.text for sample in good] == CAPTIONS


def write_img2dataset(folder: Path, output_format: str) -> None:
    """Writes the files of an img2dataset shard with three pictures and a failed download."""
    rows: list[dict[str, Any]] = [
        {"caption": caption, "key": f"00000{row:04d}", "status": "success", "error_message": None, "url": "http://x"}
        for row, caption in enumerate(CAPTIONS)
    ]
    lost = {"caption": "lost", "key": "000000003", "status": "failed_to_download", "error_message": "404", "url": "x"}
    table: list[dict[str, Any]] = [*rows, lost]
    members = [
        (f"{row['key']}.{suffix}", content)
        for number, row in enumerate(rows)
        for suffix, content in (("png", noise_png(number)), ("txt", str(row["caption"]).encode()), ("json", row))
    ]
    folder.mkdir()
    if output_format == "webdataset":
        write_members(folder / "00000.tar", members)
    elif output_format == "files":
        for name, content in members:
            (folder / "00000").mkdir(exist_ok=True)
            content = json.dumps(content).encode() if isinstance(content, dict) else content
            (folder / "00000" / str(name)).write_bytes(content)
    elif output_format == "parquet":
        table = [row | {"png": noise_png(number) if number < 3 else None} for number, row in enumerate(table)]
    elif output_format == "tfrecord":
        (folder / "00000.tfrecord").write_bytes(b"x")
    pq.write_table(pa.Table.from_pylist(table), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text("{}")


def write_paths(folder: Path, paths: list[str]) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": None, "path": path} for path in paths], kind)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": column, "caption": CAPTIONS[: len(paths)]}), folder / "a.parquet")
