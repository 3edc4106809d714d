"""Parquet shards with the pictures' bytes in one column, or with their files' names, and captions in others."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenization.corpora.corpus_format import CorpusFormat
from tokenization.corpora.named_files import read_picture
from tokenization.corpora.parquet_rows import TooLargeError, open_parquet, rows_in
from tokenization.corpora.samples import Sample
from tokenization.errors import InputError, OutageError
from tokenization.files.content import START_BYTES, content_of, one_line, what_file_is
from tokenization.files.ranged_file import RangedFile
from tokenization.files.storage import Storage

PICTURE_COLUMNS = ("image", "picture", "jpg", "png", "img", "image_bytes", "bytes", "content")

ROWS_LOOKED_AT, LOOKED_AT_BYTES = 16, 64 << 20
"""How much of a shard is looked at before the corpus's layout is decided."""
RULE = "one must hold their bytes, or structs of bytes and path; a table of names is metadata.parquet, with file_name"
SHORTEST_PICTURE = 65
"""Bytes: longer than a hash, and shorter than a picture of one pixel in nearly all formats."""


class ParquetShards(CorpusFormat):
    """Parquet shards. `image_column` names the pictures' column."""

    suffix = ".parquet"
    looked_for = ".parquet shard"

    @classmethod
    def why_no_samples(cls, storage: Storage, name: str) -> str:
        try:
            with pq.ParquetFile(pa.PythonFile(RangedFile(storage, name))) as file:
                schema = file.schema_arrow
                found = [column.name for column in schema if _holds_bytes(column.type)]
                values = _first_values(file, found) if found else []
        except OutageError:
            raise
        except (pa.ArrowException, OSError, ValueError):
            return ""  # a damaged shard is one of this format
        if not found:
            return f"{name!r} has no column of pictures; its columns are {_names(schema)}; {RULE}"
        if values and not any(map(_may_be_picture, values)):
            return f"{name!r} has no pictures in its columns {', '.join(found)}; its columns are {_names(schema)}"
        return ""

    def settings(self) -> dict[str, Any]:
        return {"image_column": self.source.image_column}

    def read(self, shard: str) -> Iterator[Sample]:
        folder = shard.rpartition("/")[0]
        with self.storage.local(shard) as path:
            for key, row, column in _rows(path, self.source.image_column, self._most):
                yield self._sample(key, row, column, folder)

    def _sample(self, key: str, row: dict[str, Any], column: str, folder: str) -> Sample:
        picture, file_name = row.pop(column), None
        if isinstance(picture, Exception):
            reason = "bad member" if isinstance(picture, TooLargeError) else "no picture"
            return Sample(key, None, problem=(reason, f"column {column!r}: {one_line(picture)}"))
        if isinstance(picture, dict):
            picture, file_name = (picture.get(name) for name in ("bytes", "path"))
        for name, value in row.items():
            if isinstance(value, Exception):
                return Sample(key, None, problem=("bad metadata", f"column {name!r}: {one_line(value)}"))
        if isinstance(picture, bytes) and picture:
            return Sample(key, picture, row)
        if isinstance(file_name, str) and file_name:
            inside = file_name.removeprefix(f"{self.storage}/")  # a path that was absolute where it was written
            found = read_picture(self.storage, "" if inside != file_name else folder, inside, self._most)
            problem = found.problem
            if problem:
                problem = (problem[0], f"column {column!r} has no bytes, and {problem[1]}")
            return Sample(key, found.content, row, problem, file=found.name)
        failed = row.get("status") not in (None, "success")  # as img2dataset writes what it could not download
        why = f": {row['status']}, {row.get('error_message')}" if failed else ""
        return Sample(key, None, row, ("no picture", f"column {column!r} is empty{why}"))

    @property
    def _most(self) -> int:
        return self.source.max_bytes


def _rows(path: Path, picture_column: str, max_bytes: int) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields the key and the values of each row of one shard, and the pictures' column. A row's key is its number.

    Args:
        path: the shard.
        picture_column: bytes, or Hugging Face's struct of `bytes` and `path`; empty takes the one column of
            such a type, or the first of the usual names.
        max_bytes: larger values are not read.

    Raises:
        InputError: the file is no parquet, or there is no such column.
    """
    try:
        with open_parquet(path) as file:
            column = picture_column or _picture_column(file.schema_arrow)
            if column not in file.schema_arrow.names:
                raise InputError(f"there is no column {column!r}; the columns are {_names(file.schema_arrow)}")
            if not _holds_bytes(file.schema_arrow.field(column).type):
                kind = file.schema_arrow.field(column).type
                raise InputError(f"column {column!r} holds {kind}, not the bytes of pictures")
            for number, row in enumerate(rows_in(file, max_bytes)):
                yield f"{number:09d}", row, column
    except (pa.ArrowException, OSError) as error:
        found = what_file_is(path)
        instead = "" if not found or "parquet" in found else f"{found}; "
        raise InputError(f"no readable parquet ({one_line(error)}); {instead}fetch or write it again") from error


def _first_values(file: pq.ParquetFile, columns: list[str]) -> list[Any]:
    """Values of the first rows that are not empty, cut where they are large. They are read one row at a time, and not
    at all if the first row group is large."""
    if not file.num_row_groups:
        return []
    group = file.metadata.row_group(0)
    if sum(group.column(number).total_uncompressed_size for number in range(group.num_columns)) > LOOKED_AT_BYTES:
        return []
    batches = islice(file.iter_batches(batch_size=1, row_groups=[0], columns=columns), ROWS_LOOKED_AT)
    values = (value for batch in batches for column in batch.columns if (value := column[0].as_py()))
    return [value[:START_BYTES] if isinstance(value, bytes) else value for value in values]


def _may_be_picture(value: Any) -> bool:
    """False for what is too short for a picture, such as a hash, or is known to be something else."""
    if isinstance(value, dict):
        return bool(value.get("path")) or (bool(value.get("bytes")) and _may_be_picture(value["bytes"]))
    found = content_of(value[:START_BYTES])
    return found.kind == "picture" if found else len(value) >= SHORTEST_PICTURE


def _picture_column(schema: pa.Schema) -> str:
    plain = [field.name for field in schema if _is_plain(field.type)]
    found = plain or [field.name for field in schema if _holds_bytes(field.type)]
    usual = [name for name in PICTURE_COLUMNS if name in found]
    if usual or len(found) == 1:
        return (usual or found)[0]
    raise InputError(
        f"no column is known to hold pictures; name one with --image-column; the columns are {_names(schema)}"
    )


def _is_plain(kind: pa.DataType) -> bool:
    """True for the types that most writers use. A column of a rarer one, such as a hash of fixed size, is taken for
    pictures only where there is none of these."""
    if pa.types.is_struct(kind):
        return any(kind.field(number).name == "bytes" for number in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_bytes(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_bytes(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    rarer = pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind)
    return _is_plain(kind) or rarer


def _names(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)
