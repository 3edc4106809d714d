"""Pictures are found in every column of a parquet that can hold them, and in no file outside of the corpus."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.corpora import corpus_in
from tests.support.corpus_files import CAPTIONS, assert_whole, problem_of, read_all_of, write_paths
from tests.support.pictures import noise_png

BINARY: dict[str, pa.DataType] = {
    "binary": pa.binary(),
    "large": pa.large_binary(),
    "view": pa.binary_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.binary()),
    "dictionary of large": pa.dictionary(pa.int8(), pa.large_binary()),
    "struct": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "struct of large": pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary())]),
    "struct of view": pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),
}


@pytest.mark.parametrize("kind", BINARY)
def test_every_binary_type_of_arrow_holds_pictures(tmp_path: Path, kind: str) -> None:
    pictures: list[Any] = [noise_png(row) for row in range(3)]
    if "struct" in kind:
        pictures = [{"bytes": content, "path": None} for content in pictures]
    column = pa.array(pictures, pa.binary()) if "dictionary" in kind else pa.array(pictures, BINARY[kind])
    column = column.dictionary_encode().cast(BINARY[kind]) if "dictionary" in kind else column
    pq.write_table(pa.table({"pixels": column, "caption": CAPTIONS}), tmp_path / "A.PARQUET")
    corpus = corpus_in(tmp_path)
    assert (corpus.layout, corpus.shards) == ("parquet", ["A.PARQUET"])
    assert_whole(corpus)


def test_a_hash_of_fixed_size_beside_the_pictures_is_not_taken_for_them(tmp_path: Path) -> None:
    hashes = pa.array([bytes(32)] * 3, pa.binary(32))
    pictures = pa.array([noise_png(row) for row in range(3)], pa.binary())
    pq.write_table(pa.table({"sha256": hashes, "pixels": pictures, "caption": CAPTIONS}), tmp_path / "a.parquet")
    assert_whole(corpus_in(tmp_path))


@pytest.mark.parametrize("form", ["../images/{}.png", "..\\images\\{}.png", "{root}/images/{}.png"])
def test_a_path_without_bytes_is_read_from_beside_the_parquet(tmp_path: Path, form: str) -> None:
    (tmp_path / "images").mkdir()
    for row in range(3):
        (tmp_path / "images" / f"{row}.png").write_bytes(noise_png(row))
    write_paths(tmp_path / "data", [form.format(row, root=tmp_path) for row in range(3)])
    assert_whole(corpus_in(tmp_path))


def test_a_path_in_a_parquet_does_not_leave_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(noise_png(0))
    for path in ("../secret.png", "..\\secret.png", str(tmp_path / "secret.png"), "x/../../secret.png", "/etc/passwd"):
        write_paths(tmp_path / "in", [path])
        good, bad, _ = read_all_of(corpus_in(tmp_path / "in"))
        assert (
            not good and problem_of(bad[0])[0] == "no picture" and "not a file of this folder" in problem_of(bad[0])[1]
        ), path
    for path in ("a\0b.png", "x" * 5000, "\ud800.png".encode("utf-8", "surrogatepass").decode("latin-1"), "."):
        write_paths(tmp_path / "in", [path])
        good, bad, _ = read_all_of(corpus_in(tmp_path / "in"))
        assert not good and problem_of(bad[0])[0] == "no picture", path
