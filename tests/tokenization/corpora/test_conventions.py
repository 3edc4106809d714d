"""Corpora as other tools write them are read, and what lies beside them is counted."""

import json
import os
import tarfile
import unicodedata
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.corpora import corpus_in
from tests.support.pictures import noise_png
from tests.support.s3 import BUCKET, FaultyS3
from tokenization.config.sources import CorpusSource
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.leftovers import METADATA, UNREAD
from tokenization.corpora.names import HIDDEN
from tokenization.corpora.samples import Ignored, Sample
from tokenization.errors import InputError

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


def read(corpus: Corpus) -> tuple[list[Sample], list[Sample], Counter[str]]:
    """The samples of a corpus, those with a problem, and what is ignored in its shards."""
    found = [one for shard in corpus.shards for one in corpus.read_all(shard)]
    samples = [one for one in found if isinstance(one, Sample)]
    good, bad = ([one for one in samples if bool(one.problem) == is_bad] for is_bad in (False, True))
    return good, bad, Counter(one.reason for one in found if isinstance(one, Ignored))


def why(sample: Sample) -> tuple[str, str]:
    """Reason and message of its problem."""
    assert sample.problem
    return sample.problem


def assert_whole(corpus: Corpus) -> None:
    """All three pictures are there, with their own captions."""
    good, bad, _ = read(corpus)
    assert not bad and [sample.picture for sample in good] == [noise_png(row) for row in range(3)]
    assert [sample.metadata.get("caption") or sample.text for sample in good] == CAPTIONS


def test_what_macos_puts_into_a_tar_is_ignored_and_counted(tmp_path: Path) -> None:
    members: list[tuple[str, Any]] = [("._.DS_Store", b"x"), (".DS_Store", b"Bud1"), ("__MACOSX/0.png", b"x")]
    for row, caption in enumerate(CAPTIONS):
        for name, content in ((f"in/{row}.png", noise_png(row)), (f"in/{row}.json", {"caption": caption})):
            members += [(f"in/._{name[3:]}", b"\0\5\x16\7"), (name, content)]
    write_members(tmp_path / "a.tar", [*members, ("Thumbs.db", b"x"), ("desktop.ini", b"x")])
    assert_whole(corpus_in(tmp_path))
    assert read(corpus_in(tmp_path))[2] == {HIDDEN: 3 + 6 + 2}


def test_what_macos_puts_into_a_folder_is_counted(tmp_path: Path) -> None:
    write_members(tmp_path / "a.tar", [("0.png", noise_png(0)), ("0.txt", b"zero")])
    for name in (".DS_Store", "._a.tar", ".git/config", "__MACOSX/._a.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {reason: len(names) for reason, names in corpus_in(tmp_path).ignored.items()} == {HIDDEN: 4}


def test_keys_with_dots_are_all_counted_and_webdatasets_rule_is_named(tmp_path: Path) -> None:
    days = ("22.05", "22.06", "v1.0")
    members: list[tuple[str, Any]] = [(f"{day}.{suffix}", b"x") for day in days for suffix in ("png", "json")]
    write_members(tmp_path / "a.tar", members)
    good, bad, _ = read(corpus_in(tmp_path))
    assert not good and [sample.key for sample in bad] == list(days)
    for sample in bad:
        assert why(sample)[0] == "no picture" and "ends at the first dot" in why(sample)[1]
        assert repr(f"{sample.key}.png") in why(sample)[1]


def test_members_that_lie_apart_are_told_as_such(tmp_path: Path) -> None:
    members: list[tuple[str, Any]] = [("0.png", noise_png(0)), ("1.png", noise_png(1)), ("0.json", {"caption": "zero"})]
    members += [("2.png", noise_png(2)), ("2.txt", b"two"), ("3.png", noise_png(3)), ("1.json", {"caption": "one"})]
    write_members(tmp_path / "a.tar", members)
    good, bad, _ = read(corpus_in(tmp_path))
    assert [sample.key for sample in good] == ["2"]
    assert [(sample.key, why(sample)[0]) for sample in bad] == [
        *(("0", "members apart"), ("1", "members apart"), ("0", "members apart")),
        *(("3", "bad metadata"), ("1", "members apart")),
    ]
    assert "tar --sort=name" in why(bad[0])[1]


def test_members_that_no_sample_needs_are_counted(tmp_path: Path) -> None:
    members: list[tuple[str, Any]] = [("a", b"")]
    for row, caption in enumerate(CAPTIONS):
        members += [(f"{row}.png", noise_png(row)), (f"{row}.jpg", b"x"), (f"{row}.json", {"caption": caption})]
        members += [(f"{row}.txt", b"another"), (f"{row}.clip.npy", b"x"), (f"{row}.seg.png", b"x")]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    write_members(tmp_path / "b.tar", members[1:])
    assert_whole(corpus_in(tmp_path))
    assert read(corpus_in(tmp_path))[2] == {
        "folder": 1,
        "second picture of a sample": 6,
        "member .npy": 3,
    }


def write_img2dataset(folder: Path, output_format: str) -> None:
    """What img2dataset leaves of a shard with three pictures and a failed download."""
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


@pytest.mark.parametrize(("output_format", "layout"), [("webdataset", "webdataset"), ("files", "files")])
def test_img2datasets_folder_is_read_with_its_metadata_beside(tmp_path: Path, output_format: str, layout: str) -> None:
    write_img2dataset(tmp_path / "in", output_format)
    corpus = corpus_in(tmp_path / "in")
    assert corpus.layout == layout and corpus.ignored == {METADATA: ["00000.parquet", "00000_stats.json"]}
    assert_whole(corpus)


def test_img2datasets_parquet_tells_what_it_could_not_download(tmp_path: Path) -> None:
    write_img2dataset(tmp_path / "in", "parquet")
    corpus = corpus_in(tmp_path / "in")
    good, bad, _ = read(corpus)
    assert corpus.layout == "parquet" and [sample.metadata["caption"] for sample in good] == CAPTIONS
    assert [sample.problem for sample in bad] == [
        ("no picture", "column 'png' is empty: failed_to_download, 404"),
    ]
    assert corpus.ignored == {METADATA: ["00000_stats.json"]}


@pytest.mark.parametrize("output_format", ["dummy", "tfrecord"])
def test_img2datasets_metadata_alone_is_refused_with_its_columns(tmp_path: Path, output_format: str) -> None:
    write_img2dataset(tmp_path / "in", output_format)
    with pytest.raises(InputError, match=r"'00000\.parquet' has no column of pictures; its columns are caption"):
        corpus_in(tmp_path / "in")


@pytest.mark.parametrize("suffix", ["txt", "caption", "text", "TXT"])
@pytest.mark.parametrize("container", ["tar", "folder"])
def test_a_text_file_is_the_caption_of_the_picture_of_its_name(tmp_path: Path, suffix: str, container: str) -> None:
    members = [
        (name, content)
        for row, caption in enumerate(CAPTIONS)
        for name, content in ((f"{row}.png", noise_png(row)), (f"{row}.{suffix}", f"\ufeff{caption}\r\n".encode()))
    ]
    if container == "tar":
        write_members(tmp_path / "a.tar", members)
    else:
        for name, content in [*members, ("notes.txt", b"of no picture")]:
            (tmp_path / name).write_bytes(content)
        assert corpus_in(tmp_path).ignored == {"other file": ["notes.txt"]}
    assert corpus_in(tmp_path).layout == ("webdataset" if container == "tar" else "files")
    assert_whole(corpus_in(tmp_path))


def test_a_text_file_that_is_no_utf8_costs_its_sample(tmp_path: Path) -> None:
    members = [("0.png", noise_png(0)), ("0.txt", b"caf\xe9"), ("1.png", noise_png(1)), ("1.txt", b"one")]
    write_members(tmp_path / "in" / "a.tar", members)
    (tmp_path / "files").mkdir()
    for name, content in members:
        (tmp_path / "files" / name).write_bytes(content)
    for folder in ("in", "files"):
        good, bad, _ = read(corpus_in(tmp_path / folder))
        assert len(good) == 1 and [why(sample)[0] for sample in bad] == ["bad caption"]


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
    _, bad, _ = read(corpus_in(tmp_path))
    messages = {sample.key: why(sample)[1] for sample in bad}
    assert "there is 'A.png', which differs in upper and lower case" in messages["metadata.csv:2"]
    assert "it is a HEIC picture; convert it to JPEG" in messages["metadata.csv:3"]
    assert messages["metadata.csv:4"].endswith("is no picture of this folder")


def test_a_table_of_metadata_that_is_none_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(noise_png(0))
    (tmp_path / "metadata.csv").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(InputError, match="no column file_name.*it is a Git LFS pointer; fetch the file itself"):
        corpus_in(tmp_path).shards  # noqa: B018
    (tmp_path / "metadata.csv").rename(tmp_path / "metadata.jsonl")
    with pytest.raises(InputError, match=r"metadata\.jsonl has no JSON lines: it is a Git LFS pointer"):
        corpus_in(tmp_path).shards  # noqa: B018


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


def write_paths(folder: Path, paths: list[str]) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": None, "path": path} for path in paths], kind)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": column, "caption": CAPTIONS[: len(paths)]}), folder / "a.parquet")


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
        good, bad, _ = read(corpus_in(tmp_path / "in"))
        assert not good and why(bad[0])[0] == "no picture" and "no file of this folder" in why(bad[0])[1], path
    for path in ("a\0b.png", "x" * 5000, "\ud800.png".encode("utf-8", "surrogatepass").decode("latin-1"), "."):
        write_paths(tmp_path / "in", [path])
        good, bad, _ = read(corpus_in(tmp_path / "in"))
        assert not good and why(bad[0])[0] == "no picture", path


@pytest.mark.parametrize("names", [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_names_composed_and_decomposed_are_one(tmp_path: Path, names: tuple[str, str]) -> None:
    picture, text = names
    write_members(tmp_path / "tar" / "a.tar", [(f"{picture}.png", noise_png(0)), (f"{text}.json", {"caption": "zero"})])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / f"{picture}.png").write_bytes(noise_png(0))
    (tmp_path / "files" / f"{text}.txt").write_text("zero")
    document = {"segments": [{"text": "zero"}, {"image": f"{text}.png"}]}
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / f"{picture}.png").write_bytes(noise_png(0))
    (tmp_path / "documents" / "a.jsonl").write_text(json.dumps(document))
    for folder in ("tar", "files", "documents"):
        good, bad, _ = read(corpus_in(tmp_path / folder))
        assert not bad and good[0].picture == noise_png(0), folder


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
    with pytest.raises(InputError, match=r"'rows\.jsonl' is no \.jsonl of documents: its rows have no `segments`"):
        corpus_in(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.png").write_bytes(noise_png(0))
    with pytest.raises(InputError, match="its 1 pictures have no captions beside them"):
        corpus_in(tmp_path / "b")
    (tmp_path / "b" / "0.png").rename(tmp_path / "b" / "0.zip")
    with pytest.raises(InputError, match=r"its files are 1 \.zip; '0\.zip': it is a PNG picture"):
        corpus_in(tmp_path / "b")


@pytest.mark.parametrize("suffix", ["HEIC", "jxl", "tga", "pgm", "qoi"])
def test_pictures_of_rarer_endings_are_samples_where_no_usual_one_is_there(tmp_path: Path, suffix: str) -> None:
    write_members(tmp_path / "tar" / "a.tar", [(f"0.{suffix}", b"rarer"), ("0.txt", b"zero")])
    both = [(f"0.{suffix}", b"rarer"), ("0.png", b"usual"), ("0.txt", b"zero")]
    write_members(tmp_path / "both" / "a.tar", both)
    for name, content in both:
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_bytes(content)
    assert [sample.picture for sample in corpus_in(tmp_path / "tar").read("a.tar")] == [b"rarer"]
    assert [sample.picture for sample in corpus_in(tmp_path / "both").read("a.tar")] == [b"usual"]
    assert sorted(str(sample.picture) for sample in corpus_in(tmp_path / "files").read("000000")) == [
        "b'rarer'",
        "b'usual'",
    ]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / f"0.{suffix}").write_bytes(b"rarer")
    (tmp_path / "folder" / f"1.{suffix}").write_bytes(b"unnamed")
    (tmp_path / "folder" / "metadata.csv").write_text(f"file_name,caption\n0.{suffix},zero\n")
    corpus = corpus_in(tmp_path / "folder")
    assert [sample.picture for sample in corpus.read("000000")] == [b"rarer"]
    assert corpus.ignored == {"picture outside of the shards": [f"1.{suffix}"]}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_without_commas_is_told_as_such(tmp_path: Path, separator: str) -> None:
    (tmp_path / "0.png").write_bytes(noise_png(0))
    (tmp_path / "metadata.csv").write_text(f"file_name{separator}caption\n0.png{separator}zero\n")
    with pytest.raises(InputError, match="it is separated by .*, and must be by commas"):
        corpus_in(tmp_path).shards  # noqa: B018


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
