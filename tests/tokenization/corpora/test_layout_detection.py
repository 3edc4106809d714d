"""A corpus's layout is decided by files that hold samples, not by others that have an ending of shards."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.corpora import corpus_in
from tests.support.corpus_files import write_members, write_paths
from tests.support.pictures import noise_png
from tokenization.corpora.leftovers import METADATA, UNREAD
from tokenization.errors import InputError


def write_table(path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"sha256": column, "caption": ["x"] * len(column)}), path)


STRAY: dict[str, Callable[[Path], object]] = {
    "empty.jsonl": Path.touch,
    "empty.parquet": Path.touch,
    "empty.tar": Path.touch,
    "hashes.parquet": lambda path: write_table(path, pa.array([bytes(range(32))] * 3, pa.binary())),
    "latents.parquet": lambda path: write_table(path, pa.array([bytes(range(32))] * 3, pa.binary(32))),
    "pages.parquet": lambda path: write_table(path, pa.array([b"<html><title>404</title></html>" * 9] * 3)),
    "rows.jsonl": lambda path: path.write_text('{"url": "x"}\n'),
    "metadata.csv": lambda path: path.write_text("name,score\n0,5\n"),
    "metadata.jsonl": lambda path: path.write_text('{"name": "0"}\n'),
}


@pytest.mark.parametrize("name", STRAY)
@pytest.mark.parametrize("layout", ["webdataset", "files", "parquet", "imagefolder"])
def test_a_stray_file_decides_nothing_and_is_told_of(tmp_path: Path, layout: str, name: str) -> None:
    if layout == "webdataset":
        write_members(tmp_path / "a.tar", [("0.png", noise_png(0)), ("0.txt", b"zero")])
    elif layout == "parquet":
        pq.write_table(pa.table({"image": pa.array([noise_png(0)]), "caption": ["zero"]}), tmp_path / "a.parquet")
    else:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "0.png").write_bytes(noise_png(0))
        (tmp_path / "in" / ("0.txt" if layout == "files" else "metadata.csv")).write_text(
            "file_name,text\n0.png,zero\n"
        )
    STRAY[name](tmp_path / name)
    of_this_layout = name.endswith({"webdataset": ".tar", "parquet": ".parquet"}.get(layout, "no"))
    if layout == "imagefolder" and name.startswith("metadata"):
        return  # a table of this layout that cannot be read
    corpus = corpus_in(tmp_path)
    assert corpus.layout == layout
    assert corpus.ignored.get(UNREAD, []) == ([] if of_this_layout else [name])


def test_two_layouts_that_both_have_samples_are_asked_about(tmp_path: Path) -> None:
    write_members(tmp_path / "a.tar", [("0.png", noise_png(0)), ("0.txt", b"zero")])
    write_paths(tmp_path, ["0.png"])
    with pytest.raises(InputError, match=r"files of webdataset and parquet; choose"):
        corpus_in(tmp_path)


def test_a_table_of_hashes_alone_is_refused_with_its_columns(tmp_path: Path) -> None:
    STRAY["hashes.parquet"](tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"'a.parquet' has no pictures in its columns sha256; its columns are"):
        corpus_in(tmp_path)


def test_a_table_of_another_tool_beside_a_folder_of_its_name_is_told_of(tmp_path: Path) -> None:
    """img2dataset's tables have numbers as names."""
    for folder in ("images", "00000"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.png").write_bytes(noise_png(0))
        (tmp_path / folder / "0.txt").write_text("zero")
        pq.write_table(pa.table({"caption": ["zero"]}), tmp_path / f"{folder}.parquet")
    assert corpus_in(tmp_path).ignored == {METADATA: ["00000.parquet"], UNREAD: ["images.parquet"]}


def test_a_metadata_table_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(noise_png(0))
    (tmp_path / "metadata.tsv").write_text("file_name\tcaption\n0.png\tzero\n")
    with pytest.raises(InputError, match=r"no captions beside them, and 'metadata.tsv' is not read; write it as"):
        corpus_in(tmp_path)


def test_a_file_in_place_of_its_folder_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(b"any")
    with pytest.raises(InputError, match="00000.tar' is a file; give the folder that holds"):
        corpus_in(tmp_path / "00000.tar")
