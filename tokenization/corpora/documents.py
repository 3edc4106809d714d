"""Interleaved documents: JSONL shards whose rows list text and pictures in order.

    {"id": "page 7", "segments": [{"text": "First we cut."}, {"image": "7/cut.jpg"}, {"text": "Done."}]}

Pictures are files in the same folder. Every picture is a sample with the text between the previous picture and itself;
the last one of a document also has the text after it. If one picture cannot be used, the whole document is rejected.
"""

import posixpath
from collections.abc import Iterator
from itertools import islice
from typing import Any

from tokenization.corpora.corpus_format import CorpusFormat
from tokenization.corpora.folder import METADATA_FILES
from tokenization.corpora.metadata_tables import jsonl_rows
from tokenization.corpora.named_files import NamedFile, read_picture
from tokenization.corpora.samples import Sample, Segment, readable
from tokenization.errors import InputError
from tokenization.files.storage import Storage

PICTURES_AT_MOST = 10
"""A document's pictures together have at most as many times the bytes that one may have: they are held together."""
ROWS_LOOKED_AT = 1000
"""Among as many rows of a shard must be a document."""


class Documents(CorpusFormat):
    """JSONL shards of interleaved documents. A row that is not a document becomes a sample with a problem."""

    suffix = ".jsonl"
    looked_for = ".jsonl shard of documents"

    @classmethod
    def own_files(cls, names: list[str]) -> list[str]:
        return [name for name in super().own_files(names) if posixpath.basename(name) not in METADATA_FILES]

    @classmethod
    def why_no_samples(cls, storage: Storage, name: str) -> str:
        try:
            with storage.local(name) as path:
                rows = [row for _, row in islice(jsonl_rows(path), ROWS_LOOKED_AT)]
        except InputError:
            return ""  # a damaged shard is one of this format
        if not rows or any(isinstance(row, dict) and "segments" in row for row in rows):
            return ""
        return f"{name!r} is not a .jsonl of documents: its rows have no `segments`; see docs/formats.md"

    def read(self, shard: str) -> Iterator[Sample]:
        folder = posixpath.dirname(shard)
        with self.storage.local(shard) as path:
            for number, row in jsonl_rows(path):
                if isinstance(row, str):
                    yield Sample(f"{number}", problem=("bad metadata", row))
                    continue
                try:
                    parts, metadata = _parts(row)
                except ValueError as error:
                    yield Sample(f"{number}", problem=("bad metadata", str(error)))
                    continue
                document = f"{number}:{readable(str(row.get('id', number)))}"
                yield from _samples(self.storage, folder, document, parts, metadata, self.source.max_bytes)


def _parts(row: dict[str, Any]) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """The segments of a row as (kind, value), and the row's other columns."""
    segments = row.get("segments")
    if not isinstance(segments, list):
        raise ValueError("the row has no list `segments`")
    parts = []
    for segment in segments:
        if not isinstance(segment, dict) or len(segment) != 1:
            raise ValueError('a segment is neither {"text": ...} nor {"image": ...}')
        (kind, value), *_ = segment.items()
        if kind not in ("text", "image") or not isinstance(value, str):
            raise ValueError(
                f"a segment's {kind!r} is a {type(value).__name__}; it must be text or the name of an image"
            )
        parts.append((kind, value))
    if not any(kind == "image" for kind, _ in parts):
        raise ValueError("the document has no picture")
    return parts, {name: value for name, value in row.items() if name not in ("segments", "id")}


def _samples(
    storage: Storage,
    folder: str,
    document: str,
    parts: list[tuple[str, str]],
    metadata: dict[str, Any],
    max_bytes: int,
) -> Iterator[Sample]:
    texts: list[str] = [""]
    names: list[str] = []
    for kind, value in parts:
        if kind == "text":
            texts[-1] += value
        else:
            names.append(value)
            texts.append("")
    num_bytes = 0
    for place, name in enumerate(names):
        segment = Segment(document, place, len(names), texts[place], texts[-1] if place + 1 == len(names) else "")
        found = read_picture(storage, folder, name, max_bytes)
        num_bytes += len(found.content or b"")
        if num_bytes > PICTURES_AT_MOST * max_bytes:
            message = f"the document's pictures have more than {PICTURES_AT_MOST} times max_bytes {max_bytes}"
            found = NamedFile(None, ("bad document", message), found.name)
        yield Sample(f"{document}/{place}", found.content, metadata, found.problem, segment, file=found.name)
