"""Folders of pictures as Hugging Face has them are read, whatever their metadata is."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.corpora import corpus_in
from tests.support.corpus_files import CAPTIONS, COMPOSED, DECOMPOSED, assert_whole, problem_of, read_all_of
from tests.support.pictures import noise_png
from tokenization.errors import InputError


def write_imagefolder(folder: Path, suffix: str, file_names: list[str], column: str = "file_name") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{column: name, "caption": caption} for name, caption in zip(file_names, CAPTIONS, strict=True)]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    elif suffix == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        lines = [f"{column},caption", *(f"{row[column]},{row['caption']}" for row in rows)]
        (folder / "metadata.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize(
    ("on_disk", "in_table", "column"),
    [
        ("{}.png", "{}.png", "file_name"),
        ("images/{}.png", "images/{}.png", "file_name"),
        ("images/{}.png", "images\\{}.png", "file_name"),
        ("images/{}.png", "./images/{}.png", "image_file_name"),
        (f"{COMPOSED}/{{}}.png", f"{DECOMPOSED}/{{}}.png", "file_name"),
        (f"{DECOMPOSED}/{{}}.png", f"{COMPOSED}\\{{}}.png", "file_name"),
    ],
)
def test_an_imagefolder_is_read_whatever_its_metadata_is(
    tmp_path: Path, suffix: str, on_disk: str, in_table: str, column: str
) -> None:
    """In a sub-folder, as Hugging Face's splits are."""
    for row in range(3):
        path = tmp_path / "train" / on_disk.format(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise_png(row))
    write_imagefolder(tmp_path / "train", suffix, [in_table.format(row) for row in range(3)], column)
    corpus = corpus_in(tmp_path)
    assert corpus.layout == "imagefolder" and not corpus.ignored
    assert_whole(corpus)


def test_an_imagefolder_says_why_a_row_has_no_picture(tmp_path: Path) -> None:
    (tmp_path / "A.png").write_bytes(noise_png(0))
    (tmp_path / "b.img").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    write_imagefolder(tmp_path, "csv", ["a.png", "b.img", "..\\c.png"])
    _, bad, _ = read_all_of(corpus_in(tmp_path))
    messages = {sample.key: problem_of(sample)[1] for sample in bad}
    assert "there is 'A.png', which differs in upper and lower case" in messages["metadata.csv:2"]
    assert "it is a HEIC picture; convert it to JPEG" in messages["metadata.csv:3"]
    assert messages["metadata.csv:4"].endswith("is not a picture of this folder")


def test_a_table_of_metadata_that_is_none_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(noise_png(0))
    (tmp_path / "metadata.csv").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(InputError, match="no column file_name.*it is a Git LFS pointer; fetch the file itself"):
        corpus_in(tmp_path).shards  # noqa: B018
    (tmp_path / "metadata.csv").rename(tmp_path / "metadata.jsonl")
    with pytest.raises(InputError, match=r"metadata\.jsonl has no JSON lines: it is a Git LFS pointer"):
        corpus_in(tmp_path).shards  # noqa: B018


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_without_commas_is_told_as_such(tmp_path: Path, separator: str) -> None:
    (tmp_path / "0.png").write_bytes(noise_png(0))
    (tmp_path / "metadata.csv").write_text(f"file_name{separator}caption\n0.png{separator}zero\n")
    with pytest.raises(InputError, match="it is separated by .*; separate it by commas"):
        corpus_in(tmp_path).shards  # noqa: B018
