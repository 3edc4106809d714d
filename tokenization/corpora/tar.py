"""WebDataset tar shards, as written by img2dataset: a picture and a `.json` under one key."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tokenization.corpora.corpus_format import CorpusFormat
from tokenization.corpora.samples import Sample, parse_object, readable
from tokenization.errors import InputError

PICTURE_SUFFIXES = frozenset(["png", "jpg", "jpeg", "jfif", "webp", "bmp", "gif", "tif", "tiff", "avif", "jp2", "ppm"])
MAX_PADDING = 1 << 16
"""Maximum number of zeros at the end: tar pads to a multiple of 10,240 bytes. An aborted download may have more."""


class WebDataset(CorpusFormat):
    """Tar shards. A sample's members share the part of their names before the first dot."""

    suffix = ".tar"
    looked_for = ".tar shard"

    def read(self, shard: str) -> Iterator[Sample]:
        with self.storage.local(shard) as path:
            yield from read_tar(path, self.source.max_bytes)


def read_tar(path: Path, max_bytes: int) -> Iterator[Sample]:
    """Yields the samples of one shard, in its order. Members of a sample are adjacent, as WebDataset requires.

    Nothing is ever unpacked, so names with `..`, links and devices are harmless. If a member is not a regular file, or
    is larger than `max_bytes`, its sample has a problem.

    Raises:
        InputError: the file is not a tar archive, or is truncated.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            key: str | None = None
            parts: dict[str, bytes | str] = {}
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else every header stays in memory
                if member.isdir():
                    continue
                folder, slash, name = readable(member.name).removeprefix("./").rpartition("/")
                stem, _, suffix = name.partition(".")
                stem = f"{folder}{slash}{stem}"
                if key is not None and (stem != key or suffix.lower() in parts):
                    yield _sample(key, parts)
                    parts = {}
                key = stem
                parts[suffix.lower()] = _content(tar, member, max_bytes)
            _check_end(path, tar.offset)
            if key is not None:
                yield _sample(key, parts)
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise InputError(f"no readable tar ({error}); fetch or write it again") from error


def _check_end(path: Path, offset: int) -> None:
    """Checks that the archive really ends at `offset`: only a limited number of zeros may follow.

    tarfile interprets a damaged or missing header as the end.
    """
    with path.open("rb") as file:
        file.seek(offset)
        rest = file.read(MAX_PADDING + 1)
    if len(rest) < tarfile.BLOCKSIZE or rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise tarfile.ReadError(f"it breaks off at byte {offset}")
    if rest.strip(b"\0"):
        raise tarfile.ReadError(f"something follows its end at byte {offset}; are several archives in one file?")
    if len(rest) > MAX_PADDING:
        raise tarfile.ReadError(f"from byte {offset} on it is empty for more than {MAX_PADDING} bytes")


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Writes a file into a tar archive, deterministically."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, max_bytes: int) -> bytes | str:
    """The member's bytes, or a message if they cannot be used."""
    if not member.isfile():
        return f"{readable(member.name)!r} is a link or a device, not a file"
    if member.size > max_bytes:
        return f"{readable(member.name)!r} has {member.size} bytes, more than max_bytes {max_bytes}"
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _sample(key: str, parts: dict[str, bytes | str]) -> Sample:
    for problem in parts.values():
        if isinstance(problem, str):
            return Sample(key, problem=("bad member", problem))
    contents = {suffix: content for suffix, content in parts.items() if isinstance(content, bytes)}
    picture = next((content for suffix, content in contents.items() if suffix in PICTURE_SUFFIXES), None)
    if picture is None:
        return Sample(key, problem=("no picture", f"the sample has no picture file, only .{', .'.join(parts)}"))
    if "json" not in contents:
        return Sample(key, picture, problem=("bad metadata", "the sample has no .json"))
    try:
        return Sample(key, picture, parse_object(contents["json"]))
    except ValueError as error:
        return Sample(key, picture, problem=("bad metadata", f".json: {error}"))
