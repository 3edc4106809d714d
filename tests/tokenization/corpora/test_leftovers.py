"""Files that are not part of a corpus are counted, and files that were meant as one are named."""

import os
from pathlib import Path

import pytest

from tests.support.corpora import corpus_in
from tests.support.corpus_files import write_members
from tests.support.pictures import noise_png
from tokenization.corpora.leftovers import UNREAD
from tokenization.corpora.names import HIDDEN
from tokenization.errors import InputError


def test_what_macos_puts_into_a_folder_is_counted(tmp_path: Path) -> None:
    write_members(tmp_path / "a.tar", [("0.png", noise_png(0)), ("0.txt", b"zero")])
    for name in (".DS_Store", "._a.tar", ".git/config", "__MACOSX/._a.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {reason: len(names) for reason, names in corpus_in(tmp_path).ignored.items()} == {HIDDEN: 4}


@pytest.mark.parametrize("name", ["b.zip", "b.7z", "b.tfrecord", "b.arrow", "b.csv", "b.jsonl.gz", "b.tar.part", "b"])
def test_an_archive_beside_the_shards_is_told_of(tmp_path: Path, name: str) -> None:
    write_members(tmp_path / "a.tar", [("0.png", noise_png(0)), ("0.txt", b"zero")])
    (tmp_path / name).write_bytes((tmp_path / "a.tar").read_bytes())
    (tmp_path / "README.md").touch()
    (tmp_path / "cover.png").touch()
    assert corpus_in(tmp_path).ignored == {
        UNREAD: [name],
        "other file": ["README.md"],
        "picture outside of the shards": ["cover.png"],
    }


def test_a_device_in_the_folder_is_counted(tmp_path: Path) -> None:
    write_members(tmp_path / "a.tar", [("0.png", noise_png(0)), ("0.txt", b"zero")])
    os.mkfifo(tmp_path / "pipe.tar")
    assert corpus_in(tmp_path).ignored == {"no regular file": ["pipe.tar"]}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "it is a Git LFS pointer; fetch"),
        (b"<!DOCTYPE html><html>404</html>", "it is an HTML page"),
        (b"PK\x03\x04" + bytes(600), "no readable tar"),
        (b"", "it is an empty file"),
    ],
)
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.parquet", "a.jsonl"])
def test_a_shard_that_is_something_else_is_called_by_its_name(
    tmp_path: Path, name: str, content: bytes, found: str
) -> None:
    (tmp_path / name).write_bytes(content)
    if name == "a.jsonl":
        found = "it is a zip archive" if "tar" in found else found
        if not content:
            assert list(corpus_in(tmp_path).read(name)) == []
            return
    found = found.replace("tar", "parquet") if "parquet" in name else found
    with pytest.raises(InputError, match=found) as caught:
        list(corpus_in(tmp_path).read(name))
    assert " at 0x" not in str(caught.value)


def test_a_table_that_is_no_document_and_a_folder_without_captions_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "rows.jsonl").write_text('{"url": "x", "caption": "y"}')
    with pytest.raises(InputError, match=r"'rows\.jsonl' is not a \.jsonl of documents: its rows have no `segments`"):
        corpus_in(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.png").write_bytes(noise_png(0))
    with pytest.raises(InputError, match="its 1 pictures have no captions beside them"):
        corpus_in(tmp_path / "b")
    (tmp_path / "b" / "0.png").rename(tmp_path / "b" / "0.zip")
    with pytest.raises(InputError, match=r"its files are 1 \.zip; '0\.zip': it is a PNG picture"):
        corpus_in(tmp_path / "b")
