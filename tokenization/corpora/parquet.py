"""Parquet shards with the pictures' bytes in one column and captions in others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenization.corpora.corpus_format import CorpusFormat
from tokenization.corpora.samples import Sample
from tokenization.errors import InputError

PICTURE_COLUMNS = ("image", "picture", "jpg", "png", "img", "image_bytes", "bytes", "content")
ROWS_AT_ONCE = 64


class ParquetShards(CorpusFormat):
    """Parquet shards. `image_column` names the pictures' column."""

    suffix = ".parquet"
    looked_for = ".parquet shard"

    def settings(self) -> dict[str, Any]:
        return {"image_column": self.source.image_column}

    def read(self, shard: str) -> Iterator[Sample]:
        with self.storage.local(shard) as path:
            yield from read_parquet(path, self.source.image_column)


def read_parquet(path: Path, picture_column: str = "") -> Iterator[Sample]:
    """Yields the rows of one shard, in its order; a row's key is its number.

    Args:
        path: the shard.
        picture_column: bytes, or Hugging Face's struct of `bytes` and `path`; empty takes the one column of
            such a type, or the first of the usual names.

    Raises:
        InputError: the file is no parquet, or there is no such column.
    """
    try:
        with pq.ParquetFile(path) as file:
            column = picture_column or _picture_column(file.schema_arrow)
            if column not in file.schema_arrow.names:
                raise InputError(f"there is no column {column!r}; the columns are {_names(file.schema_arrow)}")
            if not _holds_bytes(file.schema_arrow.field(column).type):
                kind = file.schema_arrow.field(column).type
                raise InputError(f"column {column!r} holds {kind}, not the bytes of pictures")
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                for row in _rows(batch):
                    yield _sample(f"{number:09d}", row, column)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"no readable parquet ({error}); fetch or write it again") from error


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    for place in range(batch.num_rows):
        row: dict[str, Any] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[name] = column[place].as_py()
            except (UnicodeDecodeError, ValueError, OverflowError) as error:  # invalid text or dates out of range
                row[name] = error
        yield row


def _sample(key: str, row: dict[str, Any], column: str) -> Sample:
    picture = row.pop(column)
    if isinstance(picture, dict):
        picture = picture.get("bytes")
    for name, value in row.items():
        if isinstance(value, Exception):
            return Sample(key, picture, problem=("bad metadata", f"column {name!r}: {value}"))
    if not isinstance(picture, bytes) or not picture:
        return Sample(key, None, row, ("no picture", f"column {column!r} is empty"))
    return Sample(key, picture, row)


def _picture_column(schema: pa.Schema) -> str:
    found = [field.name for field in schema if _holds_bytes(field.type)]
    usual = [name for name in PICTURE_COLUMNS if name in found]
    if usual or len(found) == 1:
        return (usual or found)[0]
    raise InputError(f"no column is known to hold pictures; name one with --image-column; there are {_names(schema)}")


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(number).name == "bytes" for number in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _names(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)
