"""WebDataset tar shards, as written by img2dataset: a picture and a `.json` or a `.txt` under one key."""

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenization.corpora.corpus_format import CorpusFormat
from tokenization.corpora.names import (
    FURTHER_SUFFIXES,
    HIDDEN,
    PICTURE_SUFFIXES,
    TEXT_SUFFIXES,
    composed,
    is_picture,
    is_system_file,
    stem_of,
    suffix_of,
)
from tokenization.corpora.samples import MAX_TEXT_BYTES, Ignored, Sample, readable, sample_of
from tokenization.corpora.tar_members import HEADER_BYTES, LimitedReads, check_end, members_of, opened_tar
from tokenization.errors import InputError, OutageError
from tokenization.files.ahead_file import Openable, StoredFile
from tokenization.files.content import START_BYTES, content_of, one_line, what_it_is
from tokenization.files.unpacked import UNPACKING_ERRORS

TAR_SUFFIXES = tuple(
    [f".tar{packed}" for packed in ("", ".gz", ".bz2", ".xz", ".zst", ".zstd", ".lz4")]
    + [".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".taz"]
)
"""Endings of tar shards, in any case. What a shard is packed by, its first bytes say."""
SECOND_PICTURE = "second picture of a sample"
MAX_PARTS = 100
"""Of a key with more members than these, those that its sample does not need are counted and not looked at."""
WRITTEN_TWICE = "member that is written again, as tar --append does"
"""The last one counts, as it does where a tar is unpacked."""
APART = "members apart"
"""The reason of samples whose members do not lie together."""
RULE = "WebDataset's key of a member ends at the first dot of its file name"


class WebDataset(CorpusFormat):
    """Tar shards, packed or not. A sample's members share the part of their names before the first dot."""

    suffix = ".tar"
    looked_for = ".tar shard"

    @classmethod
    def own_files(cls, names: list[str]) -> list[str]:
        return [name for name in names if name.lower().endswith(TAR_SUFFIXES)]

    def read(self, shard: str) -> Iterator[Sample | Ignored]:
        yield from read_tar(StoredFile(self.storage, shard), self.source.max_bytes)


def read_tar(shard: Openable, max_bytes: int) -> Iterator[Sample | Ignored]:
    """Yields the samples of one shard, in its order, and what is ignored in it.

    Members of a sample are adjacent, as WebDataset requires. Nothing is ever unpacked to disk, so names with `..`,
    links and devices are harmless. If a member is not a regular file, or is larger than `max_bytes`, its sample has a
    problem.

    Raises:
        InputError: the file is not a tar archive, or is truncated.
    """
    try:
        apart: set[str] | None = None
        for group in _groups(shard, max_bytes):
            if isinstance(group, Ignored):
                yield group
            elif group.has_all:
                yield from _samples(group)
            else:
                apart = _keys_apart(shard) if apart is None else apart
                yield from [_apart(group)] if composed(group.key) in apart else _samples(group)
    except (InputError, OutageError):
        raise  # of the storage
    except RecursionError as error:
        raise InputError("no readable tar (it has headers of headers without end); fetch or write it again") from error
    except (tarfile.TarError, ValueError, OverflowError, *UNPACKING_ERRORS) as error:
        raise InputError(f"no readable tar ({one_line(error)}); {_instead(shard)}fetch or write it again") from error


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Writes a file into a tar archive, deterministically."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@dataclass(frozen=True)
class _Group:
    """Members that lie together under one key: their contents by suffix, or messages why they cannot be used, and their
    names."""

    key: str
    parts: dict[str, bytes | str]
    names: dict[str, str]

    @property
    def has_all(self) -> bool:
        """True if there is a picture, and a file that describes it."""
        suffixes = self.parts.keys()
        return bool((PICTURE_SUFFIXES | FURTHER_SUFFIXES) & suffixes) and bool({"json", *TEXT_SUFFIXES} & suffixes)

    def needs(self, suffix: str) -> bool:
        """True for a member whose bytes may be part of the sample. Of others, the beginning says what they are."""
        others = self.parts.keys() - {suffix}
        if suffix in PICTURE_SUFFIXES:
            return not PICTURE_SUFFIXES & others
        if suffix in FURTHER_SUFFIXES:
            return not (PICTURE_SUFFIXES | FURTHER_SUFFIXES) & others
        return suffix in ("json", *TEXT_SUFFIXES)


def _groups(shard: Openable, max_bytes: int) -> Iterator[_Group | Ignored]:
    with opened_tar(shard) as (file, tar):
        group: _Group | None = None
        for member in members_of(tar):
            stem, suffix = key_of(member)
            if reason := _ignored(member):
                yield Ignored(reason)
                continue
            if group and composed(stem) != composed(group.key):
                yield group
                group = None
            if group and suffix in group.parts:
                if group.names[suffix] != _name(member):  # as a.jpg and a.JPG
                    yield Ignored(SECOND_PICTURE if is_picture(f".{suffix}") else f"second .{suffix} of a sample")
                    continue
                if group.has_all:
                    yield group
                    group = None
                else:
                    yield Ignored(WRITTEN_TWICE)
            group = group or _Group(stem, {}, {})
            if len(group.parts) >= MAX_PARTS and not group.needs(suffix):
                yield Ignored(f"member .{suffix_of(suffix)}")
                continue
            most = max_bytes if group.needs(suffix) else START_BYTES
            group.parts[suffix], group.names[suffix] = _content(file, tar, member, max_bytes, most), _name(member)
        check_end(file, tar.offset)
        if group:
            yield group


def key_of(member: tarfile.TarInfo) -> tuple[str, str]:
    """A member's key, with its folder, and its suffix, which begins at the first dot of the file name."""
    folder, slash, name = _name(member).rpartition("/")
    stem, _, suffix = name.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _name(member: tarfile.TarInfo) -> str:
    return readable(member.name).removeprefix("./")


def _ignored(member: tarfile.TarInfo) -> str:
    if member.isdir():
        return "folder"
    return HIDDEN if is_system_file(_name(member)) else ""


def _instead(shard: Openable) -> str:
    """Describes the file if it is not a tar."""
    try:
        with shard.open("rb") as file:
            found = what_it_is(file.read(START_BYTES))
    except OSError:
        return ""
    is_packed = any(f"{packer} archive" in found for packer in ("tar", "gzip", "zstd", "bzip2", "lz4", "xz"))
    return "" if not found or is_packed else f"{found}; "


def _content(
    file: LimitedReads, tar: tarfile.TarFile, member: tarfile.TarInfo, max_bytes: int, most: int
) -> bytes | str:
    """The member's first `most` bytes, or a message if they cannot be used."""
    if not member.isfile():
        return f"{readable(member.name)!r} is a link or a device, not a file"
    if most == max_bytes and key_of(member)[1] in ("json", *TEXT_SUFFIXES):
        max_bytes = most = min(max_bytes, MAX_TEXT_BYTES)
    if member.size > max_bytes:
        return f"{readable(member.name)!r} has {member.size} bytes, more than max_bytes {max_bytes}"
    opened = tar.extractfile(member)
    assert opened is not None
    file.most = max_bytes
    try:
        return opened.read(most)
    finally:
        file.most = HEADER_BYTES


def _keys_apart(shard: Openable) -> set[str]:
    """Keys (composed) whose members are not adjacent in the tar."""
    apart, ended, last = set[str](), set[str](), None
    with opened_tar(shard) as (_, tar):
        for member in members_of(tar):
            if not _ignored(member) and (key := composed(key_of(member)[0])) != last:
                if last is not None:
                    ended.add(last)
                if key in ended:
                    apart.add(key)
                last = key
    return apart


def _apart(group: _Group) -> Sample:
    message = f"only {_shown(group.parts)} of this key lie here, its other members lie elsewhere in the tar"
    remedy = "WebDataset's samples lie together: write the tar in the order of names (tar --sort=name)"
    return Sample(group.key, problem=(APART, f"{message}; {remedy}"))


def _samples(group: _Group) -> Iterator[Sample | Ignored]:
    """The sample of a key's members, and which of them it does not need."""
    key = group.key
    for problem in group.parts.values():
        if isinstance(problem, str):
            yield Sample(key, problem=("bad member", problem))
            return
    contents = {suffix: content for suffix, content in group.parts.items() if isinstance(content, bytes)}
    pictures = [suffix for suffix in contents if suffix in PICTURE_SUFFIXES]
    pictures = pictures or [suffix for suffix in contents if suffix in FURTHER_SUFFIXES]
    if not pictures:
        yield from _without_picture(key, contents)
        return
    sample = sample_of(key, contents[pictures[0]], contents)
    if sample.problem and "." in "".join(contents):
        sample = Sample(key, problem=(sample.problem[0], f"{sample.problem[1]} ({RULE})"))
    yield sample
    texts = [suffix for suffix in TEXT_SUFFIXES if suffix in contents][:1]
    for suffix in contents.keys() - {"json", pictures[0], *texts}:
        yield Ignored(SECOND_PICTURE if is_picture(f".{suffix}") else f"member .{suffix_of(suffix)}")


def _shown(suffixes: Iterable[str]) -> str:
    return ", ".join(f".{suffix}" if suffix else "a file without ending" for suffix in suffixes)


def _without_picture(key: str, contents: dict[str, bytes]) -> Iterator[Sample]:
    """Rejects of a key without a picture: one for each picture whose name has several dots, else one that names the
    other files."""
    dotted = {f"{key}.{stem_of(suffix)}": suffix for suffix in contents if "." in suffix and is_picture(suffix)}
    for name, suffix in dotted.items():
        message = f"{RULE}, so {f'{key}.{suffix}'!r} is .{suffix} of the key {key!r}, which has no picture itself"
        yield Sample(name, problem=("no picture", f"{message}; write names without other dots, as in a_b.jpg"))
    if dotted:
        return
    message = f"the sample has no picture file, only {_shown(contents)}"
    for suffix, content in contents.items():
        found = content_of(content)
        if found and found.kind != "text":
            message += f"; {_shown([suffix])} is {found}"
    yield Sample(key, problem=("no picture", message))
