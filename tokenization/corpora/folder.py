"""Folders of pictures, in virtual shards: with `metadata.jsonl`, `.csv` or `.parquet` as Hugging Face's imagefolder has
them, or with a `.txt` or `.json` beside each picture as img2dataset's `files` and the trainers of LoRAs have them."""

import hashlib
import posixpath
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

from tokenization.corpora.corpus_format import CorpusFormat
from tokenization.corpora.metadata_tables import FILE_NAME, file_column, rows_of
from tokenization.corpora.named_files import read_picture
from tokenization.corpora.names import PICTURE_SUFFIXES, TEXT_SUFFIXES, composed, is_picture, stem_of, suffix_of
from tokenization.corpora.samples import MAX_TEXT_BYTES, Ignored, Sample, readable, sample_of
from tokenization.errors import InputError
from tokenization.files.content import START_BYTES, what_it_is
from tokenization.files.storage import Storage

ROWS_LOOKED_AT = 100
METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


class PictureFolder(CorpusFormat):
    """The samples of a folder, sorted by key and cut into virtual shards of `folder_shard_rows` samples."""

    def shards(self, names: list[str]) -> list[str]:
        return [f"{number:06d}" for number in range(-(-len(self.listing) // self.source.folder_shard_rows))]

    def size(self, shard: str) -> int:
        return 0

    def settings(self) -> dict[str, Any]:
        return {"folder_shard_rows": self.source.folder_shard_rows, "listing": self.sha256()}

    def read(self, shard: str) -> Iterator[Sample | Ignored]:
        start = int(shard) * self.source.folder_shard_rows
        for name, listed in self.listing[start : start + self.source.folder_shard_rows]:
            if listed.problem:
                yield listed
            else:
                found = read_picture(self.storage, "", name, self.source.max_bytes)
                yield self.completed(name, Sample(listed.key, found.content, listed.metadata, found.problem))

    def sha256(self) -> str:
        """A hash of the keys. It changes when a picture is added or removed, as the virtual shards do."""
        return hashlib.sha256("\n".join(sample.key for _, sample in self.listing).encode()).hexdigest()

    @property
    @abstractmethod
    def listing(self) -> list[tuple[str, Sample]]:
        """All samples without their pictures' bytes, sorted by key, each with its file's name."""

    def completed(self, name: str, sample: Sample) -> Sample:
        """The sample with the content of the files beside its picture."""
        return sample


class ImageFolder(PictureFolder):
    """Pictures and metadata tables, which name the pictures of their folder and of those in it.

    A sample's key is the picture's path in the folder. Rows without a picture, pictures without a row, and rows that
    cannot be read are samples too, with a problem.
    """

    looked_for = " or ".join(METADATA_FILES)

    @classmethod
    def own_files(cls, names: list[str]) -> list[str]:
        tables = METADATA_FILES if any(map(is_picture, names)) else METADATA_FILES[:2]  # a parquet may be a shard
        return [name for name in names if posixpath.basename(name) in tables]

    @classmethod
    def why_no_samples(cls, storage: Storage, name: str) -> str:
        try:
            with storage.local(name) as path:
                rows = [row for _, row in islice(rows_of(path), ROWS_LOOKED_AT)]
        except InputError as error:
            return str(error)
        if not rows or any(isinstance(row, dict) and file_column(row) for row in rows):
            return ""
        return f"{name!r} has no rows with {FILE_NAME}"

    def files_read(self, names: list[str]) -> set[str]:
        listed = {name for name, _ in self.listing if name}
        return {*self.own_files(names), *listed}

    @cached_property
    def listing(self) -> list[tuple[str, Sample]]:
        names = self.storage.names()
        files = _Names(self.storage, names)
        found: list[tuple[str, Sample]] = []
        named: set[str] = set()
        for table in self.own_files(names):
            for name, sample in self._table(table, files):
                named.add(name)
                found.append((name, sample))
        found += [
            (name, Sample(readable(name), problem=("no caption", "no row of the metadata names this picture")))
            for name in files.pictures - named
        ]
        found.sort(key=lambda entry: entry[1].key)
        before = [None, *(sample.key for _, sample in found)]
        repeated = ("repeated key", "an earlier row of the metadata names it too")
        return [
            (name, Sample(sample.key, problem=repeated) if sample.key == key else sample)
            for (name, sample), key in zip(found, before, strict=False)
        ]

    def _table(self, name: str, files: "_Names") -> Iterator[tuple[str, Sample]]:
        folder = posixpath.dirname(name)
        with self.storage.local(name) as path:
            for number, row in rows_of(path):
                key = readable(f"{name}:{number}")
                if isinstance(row, str):
                    yield "", Sample(key, problem=("bad metadata", row))
                    continue
                column = file_column(row)
                file_name = row.pop(column) if column else None
                if not isinstance(file_name, str) or not file_name:
                    yield "", Sample(key, problem=("bad metadata", f"the row has no {FILE_NAME}"))
                elif picture := files.find(folder, file_name):
                    yield picture, Sample(readable(picture), None, row)
                else:  # also links out of the folder: their targets are not listed
                    yield "", Sample(key, problem=("no picture", files.why_not(folder, file_name)))


class PictureFiles(PictureFolder):
    """Pictures with a `.json`, a `.txt` or both beside each, under the same name. A key is the picture's path."""

    looked_for = "picture with a .txt or .json of its name"
    is_last_resort = True

    @classmethod
    def own_files(cls, names: list[str]) -> list[str]:
        beside = {composed(stem_of(name)) for name in names if suffix_of(name) in ("json", *TEXT_SUFFIXES)}
        return [name for name in names if is_picture(name) and composed(stem_of(name)) in beside]

    def files_read(self, names: list[str]) -> set[str]:
        pictures = set(filter(is_picture, names))
        stems = {composed(stem_of(name)) for name in pictures}
        return pictures | {name for stem in stems for name in self._beside.get(stem, {}).values()}

    @cached_property
    def listing(self) -> list[tuple[str, Sample]]:
        pictures = [(name, Sample(readable(name))) for name in self.storage.names() if is_picture(name)]
        return sorted(pictures, key=lambda entry: entry[1].key)

    @cached_property
    def _beside(self) -> dict[str, dict[str, str]]:
        """Names of the files of metadata and of captions, by the pictures' names without ending, and by ending."""
        found: dict[str, dict[str, str]] = {}
        for name in self.storage.names():
            if suffix_of(name) in ("json", *TEXT_SUFFIXES):
                found.setdefault(composed(stem_of(name)), {}).setdefault(suffix_of(name), name)
        return found

    def completed(self, name: str, sample: Sample) -> Sample:
        if sample.problem:
            return sample
        beside = self._beside.get(composed(stem_of(name)), {})
        contents: dict[str, bytes] = {}
        for suffix in ("json", *TEXT_SUFFIXES):
            if suffix in beside:
                found = read_picture(self.storage, "", beside[suffix], min(self.source.max_bytes, MAX_TEXT_BYTES))
                if found.content is None:
                    reason = found.problem[1] if found.problem else ""
                    return Sample(sample.key, sample.picture, problem=("bad metadata", reason))
                contents[suffix] = found.content
        return sample_of(sample.key, sample.picture, contents)


class _Names:
    """The files of a folder, by all their spellings. `pictures` are those that a row of the metadata should name."""

    def __init__(self, storage: Storage, names: list[str]) -> None:
        self._storage, self._names = storage, set(names)
        self.pictures = {name for name in names if suffix_of(name) in PICTURE_SUFFIXES}
        self._named = set(filter(is_picture, names))
        self._composed = {composed(name): name for name in sorted(self._named, reverse=True)}
        self._folded = {composed(name).casefold(): name for name in sorted(self._named, reverse=True)}

    def find(self, folder: str, file_name: str) -> str:
        """The picture that a row of a table in `folder` names; empty if there is none."""
        for path in _paths(folder, file_name):
            if path in self._named:
                return path
            if other := self._composed.get(composed(path)):
                return other
        return ""

    def why_not(self, folder: str, file_name: str) -> str:
        """A message with the reason why `find` found no picture."""
        message = f"{readable(file_name)!r} is not a picture of this folder"
        for path in _paths(folder, file_name):
            if path in self._names:
                start = self._storage.read(path, 0, min(START_BYTES, self._storage.size(path)))
                return f"{message}: {what_it_is(start)}; its ending must be that of a picture"
            if other := self._folded.get(composed(path).casefold()):
                return f"{message}; there is {readable(other)!r}, which differs in upper and lower case"
        return message


def _paths(folder: str, file_name: str) -> list[str]:
    forms = dict.fromkeys((file_name, file_name.replace("\\", "/")))
    return [posixpath.normpath(posixpath.join(folder, form)) for form in forms]
