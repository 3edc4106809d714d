"""What tars of other tools hold is read, or told of and counted."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.corpora import corpus_in
from tests.support.corpus_files import (
    CAPTIONS,
    COMPOSED,
    DECOMPOSED,
    assert_whole,
    problem_of,
    read_all_of,
    write_members,
)
from tests.support.pictures import noise_png
from tokenization.corpora.names import HIDDEN
from tokenization.corpora.samples import MAX_TEXT_BYTES
from tokenization.errors import InputError


def test_what_macos_puts_into_a_tar_is_ignored_and_counted(tmp_path: Path) -> None:
    members: list[tuple[str, Any]] = [("._.DS_Store", b"x"), (".DS_Store", b"Bud1"), ("__MACOSX/0.png", b"x")]
    for row, caption in enumerate(CAPTIONS):
        for name, content in ((f"in/{row}.png", noise_png(row)), (f"in/{row}.json", {"caption": caption})):
            members += [(f"in/._{name[3:]}", b"\0\5\x16\7"), (name, content)]
    write_members(tmp_path / "a.tar", [*members, ("Thumbs.db", b"x"), ("desktop.ini", b"x")])
    assert_whole(corpus_in(tmp_path))
    assert read_all_of(corpus_in(tmp_path))[2] == {HIDDEN: 3 + 6 + 2}


def test_keys_with_dots_are_all_counted_and_webdatasets_rule_is_named(tmp_path: Path) -> None:
    days = ("22.05", "22.06", "v1.0")
    members: list[tuple[str, Any]] = [(f"{day}.{suffix}", b"x") for day in days for suffix in ("png", "json")]
    write_members(tmp_path / "a.tar", members)
    good, bad, _ = read_all_of(corpus_in(tmp_path))
    assert not good and [sample.key for sample in bad] == list(days)
    for sample in bad:
        assert problem_of(sample)[0] == "no picture" and "ends at the first dot" in problem_of(sample)[1]
        assert repr(f"{sample.key}.png") in problem_of(sample)[1]


def test_members_that_lie_apart_are_told_as_such(tmp_path: Path) -> None:
    members: list[tuple[str, Any]] = [("0.png", noise_png(0)), ("1.png", noise_png(1)), ("0.json", {"caption": "zero"})]
    members += [("2.png", noise_png(2)), ("2.txt", b"two"), ("3.png", noise_png(3)), ("1.json", {"caption": "one"})]
    write_members(tmp_path / "a.tar", members)
    good, bad, _ = read_all_of(corpus_in(tmp_path))
    assert [sample.key for sample in good] == ["2"]
    assert [(sample.key, problem_of(sample)[0]) for sample in bad] == [
        *(("0", "members apart"), ("1", "members apart"), ("0", "members apart")),
        *(("3", "bad metadata"), ("1", "members apart")),
    ]
    assert "tar --sort=name" in problem_of(bad[0])[1]


def test_a_picture_without_a_pictures_ending_is_called_by_its_name(tmp_path: Path) -> None:
    members = [("0", noise_png(0)), ("1.bin", noise_png(1)), ("1.txt", b"x"), ("2.mp4", b"\0\0\0\x18ftypmp42")]
    write_members(tmp_path / "a.tar", members)
    _, bad, _ = read_all_of(corpus_in(tmp_path))
    assert [problem_of(sample)[1].partition("only ")[2] for sample in bad] == [
        "a file without ending; a file without ending is a PNG picture",
        ".bin, .txt; .bin is a PNG picture",
        ".mp4; .mp4 is an MP4 or QuickTime video; take its frames as pictures",
    ]


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
    assert read_all_of(corpus_in(tmp_path))[2] == {
        "folder": 1,
        "second picture of a sample": 6,
        "member .npy": 3,
    }


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
        good, bad, _ = read_all_of(corpus_in(tmp_path / folder))
        assert not bad and good[0].picture == noise_png(0), folder


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


def test_in_a_folder_one_file_describes_all_pictures_of_its_name(tmp_path: Path) -> None:
    for row, name in enumerate(("a.jpg", "a.JPG", "a.png")):
        (tmp_path / name).write_bytes(noise_png(row))
    (tmp_path / "a.json").write_text('{"caption": "one"}')
    good, bad, _ = read_all_of(corpus_in(tmp_path))
    assert not bad and [(one.key, one.metadata["caption"]) for one in good] == [
        (name, "one") for name in ("a.JPG", "a.jpg", "a.png")
    ]


def test_a_text_file_that_is_no_utf8_costs_its_sample(tmp_path: Path) -> None:
    members = [("0.png", noise_png(0)), ("0.txt", b"caf\xe9"), ("1.png", noise_png(1)), ("1.txt", b"one")]
    write_members(tmp_path / "in" / "a.tar", members)
    (tmp_path / "files").mkdir()
    for name, content in members:
        (tmp_path / "files" / name).write_bytes(content)
    for folder in ("in", "files"):
        good, bad, _ = read_all_of(corpus_in(tmp_path / folder))
        assert len(good) == 1 and [problem_of(sample)[0] for sample in bad] == ["bad caption"]


@pytest.mark.parametrize(
    ("names", "keys", "ignored"),
    [
        (["a.jpg", "a.JPG", "a.json"], ["a"], {"second picture of a sample": 1}),
        (["a.JPG", "a.json", "a.jpg"], ["a"], {"second picture of a sample": 1}),
        (["a.jpg", "a.json", "a.JSON"], ["a"], {"second .json of a sample": 1}),
        (["a.jpg", "a.jpg", "a.json"], ["a"], {"member that is written again, as tar --append does": 1}),
        (["a.jpg", "a.jpeg", "a.jpe", "a.json"], ["a"], {"second picture of a sample": 2}),
        (["a.jpg", "a.json", "a.jpg", "a.json"], ["a", "a"], {}),
        (["a.jpg", "a.json", "A.jpg", "A.json"], ["a", "A"], {}),
    ],
)
def test_members_whose_names_differ_in_case_cost_no_sample(
    tmp_path: Path, names: list[str], keys: list[str], ignored: dict[str, int]
) -> None:
    members: list[tuple[str, Any]] = [
        (name, {"caption": "zero"} if name.lower().endswith("json") else noise_png(row))
        for row, name in enumerate(names)
    ]
    write_members(tmp_path / "a.tar", members)
    good, bad, counted = read_all_of(corpus_in(tmp_path))
    assert not bad and [sample.key for sample in good] == keys and counted == ignored
    last = 1 if "written again" in "".join(ignored) else 0
    assert good[0].picture == noise_png(last) and good[0].metadata == {"caption": "zero"}


def test_of_members_that_no_sample_needs_the_beginning_is_read(tmp_path: Path) -> None:
    """A key with many large ones would fill the memory."""
    others: list[tuple[str, Any]] = [(f"a.{number}.npy", bytes(10_000)) for number in range(200)]
    write_members(tmp_path / "a.tar", [("a.png", noise_png(0)), *others, ("a.json", {"caption": "zero"})])
    good, bad, ignored = read_all_of(corpus_in(tmp_path))
    assert not bad and good[0].metadata == {"caption": "zero"} and ignored == {"member .npy": 200}
    big: list[tuple[str, Any]] = [("a.png", noise_png(0)), ("a.json", b" " * (MAX_TEXT_BYTES + 1))]
    write_members(tmp_path / "a.tar", big)
    _, bad, _ = read_all_of(corpus_in(tmp_path))
    assert problem_of(bad[0])[1].endswith("has 16000001 bytes, more than max_bytes 16000000")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_endless_bytes_or_of_endless_headers_is_refused_before_it_is_read(
    tmp_path: Path, kind: bytes
) -> None:
    header = tarfile.TarInfo("x")
    header.type = kind
    write_members(tmp_path / "a.tar", [("a.png", noise_png(0)), ("a.json", {"caption": "zero"})])
    whole = (tmp_path / "a.tar").read_bytes()
    for size, count, message in (
        (1 << 30, 1, "a header of 1073741824 bytes, more than"),
        (0, 3000, "headers of headers"),
    ):
        header.size = size
        (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) * count + whole)
        with pytest.raises(InputError, match=f"no readable tar .*{message}"):
            read_all_of(corpus_in(tmp_path))


@pytest.mark.parametrize(
    ("zeros", "is_whole"),
    [(0, True), (50_000, True), (200_000, False), ("to 1 MiB", True), ("to 2 MiB and 512", False), (300, True)],
)
def test_padding_to_a_large_record_is_no_aborted_download(tmp_path: Path, zeros: int | str, is_whole: bool) -> None:
    """As `tar --blocking-factor=2048` pads."""
    write_members(tmp_path / "a.tar", [("a.png", noise_png(0)), ("a.json", {"caption": "zero"})])
    whole = (tmp_path / "a.tar").read_bytes()
    by_name = {"to 1 MiB": (1 << 20) - len(whole), "to 2 MiB and 512": (1 << 21) + 512 - len(whole)}
    (tmp_path / "a.tar").write_bytes(whole + bytes(zeros if isinstance(zeros, int) else by_name[zeros]))
    if is_whole:
        assert len(read_all_of(corpus_in(tmp_path))[0]) == 1
    else:
        with pytest.raises(InputError, match="more than 65536 bytes after byte"):
            read_all_of(corpus_in(tmp_path))
