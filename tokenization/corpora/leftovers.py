"""Finds the files in a corpus's folder that are not part of it, and the reason why each is ignored."""

import posixpath
import re

from tokenization.corpora.names import HIDDEN, composed, is_picture, is_system_file, stem_of, suffix_of
from tokenization.corpora.tar import TAR_SUFFIXES
from tokenization.files.content import START_BYTES, content_of
from tokenization.files.listing import Listing
from tokenization.files.storage import Storage

UNREAD = "archive or table that this layout does not read"
METADATA = "metadata of img2dataset"
NO_FILE = "no regular file"
PICTURE = "picture outside of the shards"
"""Those that rows of the shards name are taken off at the end."""
OTHER = "other file"

LONGEST_FIRST = sorted(TAR_SUFFIXES, key=len, reverse=True)
_UNREAD_SUFFIXES = {
    *("tar", "tgz", "tbz", "tbz2", "txz", "tzst", "gz", "bz2", "xz", "zst", "zstd", "lz4", "z", "zip", "7z", "rar"),
    *("br", "lz", "lzma", "lzo", "sqfs", "squashfs", "iso", "cab", "cpio"),
    *("parquet", "parq", "pq", "arrow", "feather", "avro", "orc", "tfrecord", "tfrecords", "h5", "hdf5", "npz", "npy"),
    *("lmdb", "mdb", "sqlite", "db", "wds", "mds", "beton", "msgpack", "pickle", "pkl"),
    *("jsonl", "ndjson", "csv", "tsv", "xlsx"),
}
_PLAIN_SUFFIXES = {
    *("md", "txt", "json", "yaml", "yml", "html", "htm", "log", "py", "sh", "toml", "ini", "cfg", "rst", "bib", "lock"),
    *("svg", "caption", "text"),
}
_PLAIN_NAMES = {"license", "licence", "readme", "notice", "copying", "makefile", "dockerfile", "_success"}
_MOST_LOOKED_AT = 100
"""Of files with unknown endings, how many are opened to see whether they are archives."""


def leftovers(storage: Storage, listing: Listing, read: set[str]) -> dict[str, list[str]]:
    """Names of files that are not read, by the reason.

    Args:
        storage: the corpus.
        listing: what is in it.
        read: the files that samples are made of.
    """
    found: dict[str, list[str]] = {}
    names = [(name, True) for name in listing.names if name not in read] + [(name, False) for name in listing.others]
    stems = {composed(_shard_stem(name)) for name in read} if names else set()
    folders = {posixpath.dirname(name) for name in read} if names else set()
    looked_at = 0
    for name, is_regular in sorted(names):
        reason = _by_name(name, is_regular, stems, folders)
        if not reason:
            looked_at += 1
            reason = _by_content(storage, name) if looked_at <= _MOST_LOOKED_AT else OTHER
        found.setdefault(reason, []).append(name)
    return dict(sorted(found.items()))


def _by_name(name: str, is_regular: bool, stems: set[str], folders: set[str]) -> str:
    """The reason, or nothing if the content must say it."""
    if any(part.startswith(".") for part in name.split("/")) or is_system_file(name):
        return HIDDEN
    if not is_regular:
        return NO_FILE
    stem = composed(stem_of(name))
    if re.search(r"(^|/)\d+_stats\.json$", name):
        return METADATA
    if suffix_of(name) == "parquet" and (stem in stems or stem in folders) and is_numbered(stem):
        return METADATA
    if is_picture(name):
        return PICTURE
    if suffix_of(name) in _UNREAD_SUFFIXES:
        return UNREAD
    if suffix_of(name) in _PLAIN_SUFFIXES or posixpath.basename(name).lower() in _PLAIN_NAMES:
        return OTHER
    return ""


def is_numbered(stem: str) -> bool:
    """True for the names that img2dataset gives its shards and their metadata: numbers."""
    return posixpath.basename(stem).isdigit()


def _by_content(storage: Storage, name: str) -> str:
    try:
        content = content_of(storage.read(name, 0, min(START_BYTES, storage.size(name))))
    except (OSError, ValueError):
        return NO_FILE
    return UNREAD if content and content.kind in ("archive", "table") else OTHER


def _shard_stem(name: str) -> str:
    suffix = next((suffix for suffix in LONGEST_FIRST if name.lower().endswith(suffix)), "")
    return name[: -len(suffix)] if suffix else stem_of(name)
