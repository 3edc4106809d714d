"""Reads the rows of a parquet file in bounded memory: what its footer says is looked at before anything is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenization.errors import InputError

ROWS_AT_ONCE = 64
BYTES_AT_ONCE = 64 << 20
"""Maximum size of the rows that are read at once, if they are several."""
BUFFER_BYTES = 1 << 20
"""A column of a row group is read through a buffer of this size, not as a whole."""
FEW_BYTES = 1 << 16
"""If all pages of a column but its dictionary have fewer bytes, its content is in the dictionary."""


class TooLargeError(ValueError):
    """A value has more bytes than a row may have."""


def open_parquet(path: Path) -> pq.ParquetFile:
    """Opens a parquet file.

    Raises:
        InputError: two columns have the same name, so that none can be told by it.
        ArrowException, OSError: it is damaged.
    """
    file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES)
    names = file.schema_arrow.names
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        file.close()
        raise InputError(f"the column {twice!r} occurs twice; rename one of them")
    return file


def rows_in(file: pq.ParquetFile, max_bytes: int) -> Iterator[dict[str, Any]]:
    """Yields the rows. In the place of a value that cannot be read is the error.

    Args:
        file: see `open_parquet`.
        max_bytes: a larger value is not made, and one of which the footer says so is not even read.

    Raises:
        ArrowException, OSError: the file is damaged.
    """
    names = file.schema_arrow.names
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if too_large := _too_large(group, max_bytes):
            for _ in range(group.num_rows):
                yield dict.fromkeys(names) | {too_large: TooLargeError(f"it has values of more than {max_bytes} bytes")}
            continue
        for batch in file.iter_batches(batch_size=_rows_at_once(group), row_groups=[number]):
            yield from values_of(batch, max_bytes)


def values_of(batch: pa.RecordBatch, max_bytes: int) -> Iterator[dict[str, Any]]:
    """Yields the rows of a batch. In the place of a value that cannot be read is the error."""
    for place in range(batch.num_rows):
        row: dict[str, Any] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                if (size := _bytes_of(column, place)) > max_bytes:
                    raise TooLargeError(f"it has {size} bytes, more than max_bytes {max_bytes}")
                row[name] = column[place].as_py()
            except (UnicodeDecodeError, ValueError, OverflowError) as error:  # invalid text or dates out of range
                row[name] = error
        yield row


def _bytes_of(column: pa.Array, place: int) -> int:
    """The size of a value, without making it; of a nested one, with what Arrow keeps beside it."""
    scalar = column[place]
    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value
    if isinstance(scalar, pa.BinaryScalar | pa.StringScalar):  # the large ones, too
        return scalar.as_buffer().size if scalar.is_valid else 0
    return int(column.slice(place, 1).nbytes) if pa.types.is_nested(column.type) else 0


def _rows_at_once(group: pq.RowGroupMetaData) -> int:
    """The number of rows that are read at once: a value may be as large as all that its column has, and a dictionary
    has each value once for all rows."""
    columns = [group.column(number) for number in range(group.num_columns)]
    whole = sum(column.total_uncompressed_size for column in columns)
    repeated = sum(column.total_uncompressed_size for column in columns if column.has_dictionary_page)
    if whole > BYTES_AT_ONCE:
        return 1
    return int(max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(1, repeated))))


def _too_large(group: pq.RowGroupMetaData, max_bytes: int) -> str:
    """The column of which the footer says that a value is far too large; empty if it says that of none.

    Up to four times the limit are read: the others of the row group may be usable.
    """
    for number in range(group.num_columns):
        column = group.column(number)
        most = max_bytes * max(4, column.num_values)
        if column.has_dictionary_page and column.data_page_offset is not None:
            dictionary = column.data_page_offset - (column.dictionary_page_offset or column.data_page_offset)
            if column.total_compressed_size - dictionary < FEW_BYTES:
                most = 4 * max_bytes
        if column.total_uncompressed_size > most + FEW_BYTES:
            return str(column.path_in_schema).partition(".")[0]
    return ""
