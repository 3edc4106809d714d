"""Whatever a tar file holds, its rows are read or named."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.corpora import corpus_in
from tests.support.pictures import noise_png, write_tar
from tests.support.tokens import FINGERPRINT
from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.samples import Sample
from tokenization.errors import InputError
from tokenization.job.rows import passed_through
from tokenization.table.token_writing import write_token_shard


def test_what_a_tar_may_hold_beside_files_is_named_and_nothing_is_unpacked(tmp_path: Path) -> None:
    def add(
        tar: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = ""
    ) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname = kind, len(content), link
        tar.addfile(info, io.BytesIO(content))

    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
        for name in ("../up", "/abs", "ok"):
            add(tar, f"{name}.png", content=noise_png(1))
            add(tar, f"{name}.json", content=b'{"caption": "x"}')
        add(tar, "folder", tarfile.DIRTYPE)
        add(tar, "link.png", tarfile.SYMTYPE, link="/etc/passwd")
        add(tar, "hard.png", tarfile.LNKTYPE, link="ok.png")
        add(tar, "device.png", tarfile.CHRTYPE)
        add(tar, "pipe.png", tarfile.FIFOTYPE)
        add(tar, "large.png", content=b"x" * 70_000)
        add(tar, "alone.txt", content=b"text")
        add(tar, "\udcff.png", content=noise_png(2))
    before = sorted(tmp_path.rglob("*"))
    samples = list(corpus_in(tmp_path / "in", max_bytes=60_000).read("a.tar"))
    assert sorted(tmp_path.rglob("*")) == before
    problems = {sample.key: sample.problem[0] for sample in samples if sample.problem}
    bad = dict.fromkeys(("link", "hard", "device", "pipe", "large"), "bad member")
    assert problems == bad | {"alone": "no picture", "\\xed\\xb3\\xbf": "bad metadata"}
    assert {sample.key for sample in samples if not sample.problem} == {"../up", "/abs", "ok"}


def test_metadata_of_any_kind_reaches_the_table_or_is_named(tmp_path: Path) -> None:

    strange = {"big": 2**80, "half": "\ud800", "deep": {"a": [1]}, "codes": [1], "sample_id": "x", "nan": float("nan")}
    row = {"sample_id": "s/1", "codes": np.zeros(9, np.uint16), "captions": [], "width": 1, "height": 1, "crop": None}

    rows = [row | passed_through(Sample("1", None, strange), TokenizationConfig()), row]
    write_token_shard(tmp_path / "a.parquet", rows, FINGERPRINT)
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert table[0]["big"] == str(2**80) and table[0]["deep"] == '{"a": [1]}'
    assert table[0]["sample_id"] == "s/1" and table[0]["source_sample_id"] == "x" and table[0]["source_codes"] == "[1]"
    assert table[1]["big"] is None and isinstance(table[0]["half"], str)


@pytest.mark.parametrize(
    "text", [b"[" * 200_000, b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}", b"9" * 5000, b'{"a": 1', b"\xff\xfe", b"null"]
)
def test_json_that_is_none_is_named(tmp_path: Path, text: bytes) -> None:
    write_tar(tmp_path / "a.tar", [("a", noise_png(1), text), ("b", noise_png(2), {"caption": "x"})])
    samples = list(corpus_in(tmp_path).read("a.tar"))
    assert [sample.problem[0] if sample.problem else "" for sample in samples] == ["bad metadata", ""]


@pytest.mark.parametrize("kind", ["again", "two archives", "zeros"])
def test_no_row_of_a_tar_is_lost_in_silence(tmp_path: Path, kind: str) -> None:
    samples = [(str(row), noise_png(row), {"caption": f"picture {row}", "score": row / 2}) for row in range(3)]
    path = tmp_path / "a.tar"
    write_tar(path, [*samples, samples[-1]] if kind == "again" else samples)
    content = path.read_bytes()
    if kind == "again":
        assert [sample.key for sample in corpus_in(tmp_path).read("a.tar")] == ["0", "1", "2", "2"]
        return
    if kind == "zeros":
        with tarfile.open(path) as tar:
            second = [member.offset for member in tar][2]
        content = content[:second] + bytes(200_000)
    path.write_bytes(content + content * (kind == "two archives"))
    expected = {"two archives": "several archives in one file", "zeros": "bytes after byte [0-9]+ are empty"}
    with pytest.raises(InputError, match=expected[kind]):
        list(corpus_in(tmp_path).read("a.tar"))
