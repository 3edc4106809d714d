"""A folder of pictures with `metadata.jsonl` or `metadata.csv`, in the layout of Hugging Face's imagefolder."""

import csv
import hashlib
import posixpath
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenization.corpora.corpus_format import CorpusFormat
from tokenization.corpora.samples import Sample, parse_object, readable
from tokenization.corpora.tar import PICTURE_SUFFIXES
from tokenization.errors import InputError, OutageError
from tokenization.files.checks import is_inside
from tokenization.files.storage import Storage

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"


class ImageFolder(CorpusFormat):
    """The samples of a folder, sorted by name and cut into virtual shards of `folder_shard_rows` samples.

    A sample's key is the picture's path in the folder. Rows without a picture, pictures without a row, and rows that
    cannot be read are samples too, with a problem.
    """

    looked_for = " or ".join(METADATA_FILES)

    @classmethod
    def own_files(cls, names: list[str]) -> list[str]:
        return [name for name in names if posixpath.basename(name) in METADATA_FILES]

    def shards(self, names: list[str]) -> list[str]:
        return [f"{number:06d}" for number in range(-(-len(self.listing) // self.source.folder_shard_rows))]

    def settings(self) -> dict[str, Any]:
        return {"folder_shard_rows": self.source.folder_shard_rows, "listing": self.sha256()}

    def read(self, shard: str) -> Iterator[Sample]:
        start = int(shard) * self.source.folder_shard_rows
        for name, listed in self.listing[start : start + self.source.folder_shard_rows]:
            if listed.problem:
                yield listed
            else:
                content, problem = read_picture(self.storage, name, self.source.max_bytes)
                yield Sample(listed.key, content, listed.metadata, problem)

    def sha256(self) -> str:
        """A hash of the keys. It changes when a picture is added or removed, as the virtual shards do."""
        return hashlib.sha256("\n".join(sample.key for _, sample in self.listing).encode()).hexdigest()

    @cached_property
    def listing(self) -> list[tuple[str, Sample]]:
        """All samples without their pictures' bytes, sorted by key, each with its file's name."""
        names = self.storage.names()
        pictures = {name for name in names if name.rpartition(".")[2].lower() in PICTURE_SUFFIXES}
        found: list[tuple[str, Sample]] = []
        named: set[str] = set()
        for table in self.own_files(names):
            for name, sample in self._table(table, pictures):
                named.add(name)
                found.append((name, sample))
        found += [
            (name, Sample(readable(name), problem=("no caption", "no row of the metadata names this picture")))
            for name in pictures - named
        ]
        found.sort(key=lambda entry: entry[1].key)
        before = [None, *(sample.key for _, sample in found)]
        repeated = ("repeated key", "an earlier row of the metadata names it too")
        return [
            (name, Sample(sample.key, problem=repeated) if sample.key == key else sample)
            for (name, sample), key in zip(found, before, strict=False)
        ]

    def _table(self, name: str, pictures: set[str]) -> Iterator[tuple[str, Sample]]:
        folder = posixpath.dirname(name)
        with self.storage.local(name) as path:
            rows = _csv_rows(path) if name.endswith(".csv") else jsonl_rows(path)
            for number, row in rows:
                key = readable(f"{name}:{number}")
                if isinstance(row, str):
                    yield "", Sample(key, problem=("bad metadata", row))
                    continue
                file_name = row.pop(FILE_NAME, None)
                if not isinstance(file_name, str) or not file_name:
                    yield "", Sample(key, problem=("bad metadata", f"the row has no {FILE_NAME}"))
                    continue
                picture = posixpath.normpath(posixpath.join(folder, file_name))
                if picture in pictures:
                    yield picture, Sample(readable(picture), None, row)
                else:  # also links out of the folder: their targets are not listed
                    message = f"{readable(file_name)!r} is no picture of this folder"
                    yield "", Sample(key, problem=("no picture", message))


def read_picture(storage: Storage, name: str, max_bytes: int) -> tuple[bytes | None, tuple[str, str] | tuple[()]]:
    """Returns a picture's bytes, or the problem of its sample. A file of more than `max_bytes` is not read."""
    try:
        if not is_inside(name) or not storage.exists(name):
            return None, ("no picture", f"{readable(name)!r} is no file of this folder")
        with storage.local(name) as path:
            size = path.stat().st_size
            if size > max_bytes:
                return None, ("bad member", f"{readable(name)!r} has {size} bytes, more than max_bytes {max_bytes}")
            return path.read_bytes(), ()
    except (OSError, ValueError) as error:  # no permission, or an invalid file name
        if isinstance(error, OutageError) or (isinstance(error, InputError) and error.__cause__):
            raise  # the storage itself fails
        return None, ("no picture", f"{readable(name)!r} cannot be read: {error}")


def jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields line numbers from 1, each with its object, or with a message if it is no object. Skips blank lines."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, parse_object(line)
            except ValueError as error:
                yield number, str(error)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        if FILE_NAME not in (reader.fieldnames or ()):
            raise InputError(f"{path.name} has no column {FILE_NAME}; its columns are {reader.fieldnames}")
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.line_num, str(error)
                continue
            if None in row or None in row.values():
                yield reader.line_num, "the row has not as many fields as the first line"
            elif any("\ud800" <= letter <= "\udfff" for value in row.values() for letter in value):
                yield reader.line_num, "the row is not UTF-8"
            else:
                yield reader.line_num, dict(row)
