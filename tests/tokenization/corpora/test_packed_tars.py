"""Packed tars are read as plain ones are, and what is damaged in them is told."""

import bz2
import gzip
import io
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.corpora import corpus_in
from tests.support.pictures import noise_png, write_tar
from tokenization.errors import InputError
from tokenization.files.unpacked import KEPT_BYTES, Unpacked, open_unpacked
from tokenization.table.shard_statistics import rejects_name, statistics_name, token_name

SAMPLES = [(str(row), noise_png(row), {"caption": f"picture {row}"}) for row in range(4)]


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    def pack(content: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(content)
        packed: bytes = sink.getvalue().to_pybytes()
        return packed

    return pack


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar.gz": gzip.compress,
    "tgz": gzip.compress,
    "TAR.GZ": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": by_arrow("zstd"),
    "tar.lz4": by_arrow("lz4"),
    "tar": gzip.compress,
    "TAR": bytes,
}


def packed_corpus(folder: Path, ending: str, cut: slice = slice(None)) -> Path:
    write_tar(folder / "plain", SAMPLES)
    (folder / "in").mkdir()
    path = folder / "in" / f"a.{ending}"
    path.write_bytes(PACKERS[ending]((folder / "plain").read_bytes())[cut])
    return path


@pytest.mark.parametrize("ending", PACKERS)
def test_a_packed_tar_gives_the_samples_of_a_plain_one(tmp_path: Path, ending: str) -> None:
    path = packed_corpus(tmp_path, ending)
    corpus = corpus_in(tmp_path / "in")
    assert (corpus.layout, corpus.shards, corpus.ignored) == ("webdataset", [path.name], {})
    samples = list(corpus.read(path.name))
    assert [(one.key, one.picture, one.metadata) for one in samples] == SAMPLES


@pytest.mark.parametrize("ending", ["tar.gz", "tar.bz2", "tar.xz", "tar.zst", "tar.lz4"])
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_packed_tar_that_is_cut_off_fails_and_is_not_shortened(tmp_path: Path, ending: str, share: float) -> None:
    path = packed_corpus(tmp_path, ending)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="no readable tar"):
        list(corpus_in(tmp_path / "in").read(path.name))


def test_a_gzip_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    """As pigz and bgzip write it."""
    path = packed_corpus(tmp_path, "tar.gz")
    content = (tmp_path / "plain").read_bytes()
    path.write_bytes(b"".join(gzip.compress(content[start : start + 1000]) for start in range(0, len(content), 1000)))
    assert len(list(corpus_in(tmp_path / "in").read(path.name))) == len(SAMPLES)


@pytest.mark.parametrize("ending", ["tar.zst", "tar.lz4"])
def test_an_archive_of_several_frames_is_read_to_its_end(tmp_path: Path, ending: str) -> None:
    """As pzstd writes it: its frames begin with one to be skipped, which has their sizes."""
    path = packed_corpus(tmp_path, ending)
    content = (tmp_path / "plain").read_bytes()
    sizes = struct.pack("<II", 0x184D2A50, 4) + b"size" if ending == "tar.zst" else b""
    frames = [sizes + PACKERS[ending](content[start : start + 1000]) for start in range(0, len(content), 1000)]
    path.write_bytes(b"".join(frames))
    assert len(list(corpus_in(tmp_path / "in").read(path.name))) == len(SAMPLES)


SKIPPED = struct.pack("<II", 0x184D2A5C, 5) + b"notes"
"""A frame without content, of zstd and of lz4."""


@pytest.mark.parametrize(
    ("ending", "join"),
    [
        ("tar.xz", lambda first, second: first + bytes(8) + second + bytes(4)),
        ("tar.zst", lambda first, second: SKIPPED * 2 + first + SKIPPED + second + SKIPPED),
        ("tar.lz4", lambda first, second: SKIPPED * 2 + first + SKIPPED + second),
        ("tar.gz", lambda first, second: first + second + bytes(512)),
        ("tar.bz2", lambda first, second: first + second),
    ],
)
def test_padding_and_frames_without_content_are_part_of_the_packers_formats(
    tmp_path: Path, ending: str, join: Callable[[bytes, bytes], bytes]
) -> None:
    path = packed_corpus(tmp_path, ending)
    content = (tmp_path / "plain").read_bytes()
    path.write_bytes(join(PACKERS[ending](content[:3000]), PACKERS[ending](content[3000:])))
    assert len(list(corpus_in(tmp_path / "in").read(path.name))) == len(SAMPLES)
    path.write_bytes(join(PACKERS[ending](content[:3000]), b""))
    with pytest.raises(InputError, match="no readable tar"):
        list(corpus_in(tmp_path / "in").read(path.name))


def test_what_follows_a_packed_tar_and_a_file_of_nothing_but_notes_are_told(tmp_path: Path) -> None:
    path = packed_corpus(tmp_path, "tar.xz")
    for content, message in (
        (path.read_bytes() + b"garbage", "its last xz stream is cut off"),
        (SKIPPED, "it has frames without content alone"),
        (SKIPPED[:6], "no readable tar"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            list(corpus_in(tmp_path / "in").read(path.name))


def test_tokens_of_shards_of_one_name_go_to_several_files() -> None:
    shards = ["a.tar", "a.TAR", "a.tar.gz", "a.tar.zst", "a.tgz", "a.tar.lz4"]
    for name in (token_name, rejects_name, statistics_name):
        assert len({name(shard) for shard in shards}) == len(shards)
    assert (token_name("b/a.tar"), token_name("b/a.tgz")) == ("b/a.parquet", "b/a.tgz.parquet")
    assert token_name("000001") == "000001.parquet" and token_name("v1.2/a.parquet") == "v1.2/a.parquet"


def test_a_packed_file_is_read_forward_and_a_little_back(tmp_path: Path) -> None:
    content = bytes(range(256)) * 64
    (tmp_path / "a").write_bytes(gzip.compress(content))
    with open_unpacked(tmp_path / "a") as file:
        assert isinstance(file, Unpacked)
        assert file.read(1000) == content[:1000]
        file.seek(488)
        assert file.read(1024) == content[488:1512] and file.tell() == 1512
        file.seek(10_000)
        assert file.read(10) == content[10_000:10_010]
        with pytest.raises(OSError, match="too far"):
            file.seek(10_000 - KEPT_BYTES)
        file.seek(len(content) + 5)
        assert file.read(10) == b"" and file.tell() == len(content)
    whole = io.BytesIO(content)
    assert Unpacked(whole).read(len(content) + 1) == content
