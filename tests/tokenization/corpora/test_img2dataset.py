"""The output of img2dataset is read, in each of its formats."""

from pathlib import Path

import pytest

from tests.support.corpora import corpus_in
from tests.support.corpus_files import CAPTIONS, assert_whole, read_all_of, write_img2dataset, write_paths
from tests.support.pictures import noise_png
from tests.support.s3 import BUCKET, FaultyS3
from tokenization.config.sources import CorpusSource
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.leftovers import METADATA, UNREAD
from tokenization.corpora.names import HIDDEN
from tokenization.errors import InputError


@pytest.mark.parametrize(("output_format", "layout"), [("webdataset", "webdataset"), ("files", "files")])
def test_img2datasets_folder_is_read_with_its_metadata_beside(tmp_path: Path, output_format: str, layout: str) -> None:
    write_img2dataset(tmp_path / "in", output_format)
    corpus = corpus_in(tmp_path / "in")
    assert corpus.layout == layout and corpus.ignored == {METADATA: ["00000.parquet", "00000_stats.json"]}
    assert_whole(corpus)


def test_img2datasets_parquet_tells_what_it_could_not_download(tmp_path: Path) -> None:
    write_img2dataset(tmp_path / "in", "parquet")
    corpus = corpus_in(tmp_path / "in")
    good, bad, _ = read_all_of(corpus)
    assert corpus.layout == "parquet" and [sample.metadata["caption"] for sample in good] == CAPTIONS
    assert [sample.problem for sample in bad] == [
        ("no picture", "column 'png' is empty: failed_to_download, 404"),
    ]
    assert corpus.ignored == {METADATA: ["00000_stats.json"]}


@pytest.mark.parametrize("output_format", ["dummy", "tfrecord"])
def test_img2datasets_metadata_alone_is_refused_with_its_columns(tmp_path: Path, output_format: str) -> None:
    write_img2dataset(tmp_path / "in", output_format)
    with pytest.raises(
        InputError, match=r"'00000\.parquet' has no column of pictures; its columns are caption.*; one must hold"
    ):
        corpus_in(tmp_path / "in")


@pytest.mark.slow
def test_a_corpus_in_s3_is_detected_read_and_counted_as_a_local_one(tmp_path: Path, s3: FaultyS3) -> None:
    write_img2dataset(tmp_path / "webdataset", "webdataset")
    write_img2dataset(tmp_path / "files", "files")
    (tmp_path / "named").mkdir()
    for row in range(3):
        (tmp_path / "named" / f"{row}.png").write_bytes(noise_png(row))
    write_paths(tmp_path / "named", [f"{row}.png" for row in range(3)])
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        s3.client().upload_file(str(path), BUCKET, path.relative_to(tmp_path).as_posix())
    for key in ("webdataset/.DS_Store", "webdataset/._00000.tar", "webdataset/a.zip", "webdataset/b", "webdataset/c/"):
        s3.client().put_object(Bucket=BUCKET, Key=key, Body=b"" if key[-1] == "/" else b"PK\3\4" + bytes(600))
    for name in ("webdataset", "files", "named"):
        assert_whole(Corpus(CorpusSource(f"s3://{BUCKET}/{name}")))
    assert Corpus(CorpusSource(f"s3://{BUCKET}/webdataset")).ignored == {
        UNREAD: ["a.zip", "b"],
        HIDDEN: [".DS_Store", "._00000.tar"],
        METADATA: ["00000.parquet", "00000_stats.json"],
    }
