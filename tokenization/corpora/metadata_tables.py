"""Reads tables that have a row for each picture: JSON lines, csv, parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokenization.corpora.csv_rows import check_narrow, csv_records
from tokenization.corpora.parquet_rows import open_parquet, rows_in
from tokenization.corpora.samples import MAX_TEXT_BYTES, parse_object
from tokenization.errors import InputError
from tokenization.files.content import content_of_file, one_line, what_file_is
from tokenization.files.signatures import EMPTY

FILE_NAME = "file_name"
NumberedRow = tuple[int, dict[str, Any] | str]
"""A row's number, and the row, or a message if it cannot be read."""


def rows_of(path: Path) -> Iterator[NumberedRow]:
    """Yields the rows of a table, whose ending says its kind: `.jsonl`, `.csv` or `.parquet`.

    Raises:
        InputError: the file is damaged, or has no column of file names.
    """
    kinds = {".csv": csv_rows, ".parquet": parquet_rows}
    yield from kinds.get(path.suffix.lower(), jsonl_rows)(path)


def file_column(columns: Any) -> str:
    """The column of the pictures' names: `file_name`, or the one that ends so, as Hugging Face has it; else empty."""
    if FILE_NAME in columns:
        return FILE_NAME
    similar = [name for name in columns if isinstance(name, str) and name.endswith(f"_{FILE_NAME}")]
    return similar[0] if len(similar) == 1 else ""


def jsonl_rows(path: Path) -> Iterator[NumberedRow]:
    """Yields line numbers from 1, each with its object, or with a message if it is no object. Skips blank lines.

    Raises:
        InputError: the file is something else, such as a Git LFS pointer, or UTF-16.
    """
    found = content_of_file(path)
    if found and found is not EMPTY and (found.kind != "text" or found.remedy):
        raise InputError(f"{path.name} has no JSON lines: it is {found}")
    check_narrow(path)
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_TEXT_BYTES + 1):
            number += 1
            if len(line) > MAX_TEXT_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_TEXT_BYTES)
                yield number, f"the row has more than {MAX_TEXT_BYTES} bytes"
                continue
            if not line.strip():
                continue
            try:
                yield number, parse_object(line)
            except ValueError as error:
                yield number, str(error)


def csv_rows(path: Path) -> Iterator[NumberedRow]:
    """Yields the last line number of each row, with the row, or with a message.

    Raises:
        InputError: there is no column of file names, two columns have the same name, or the file is UTF-16.
    """
    records = csv_records(path)
    number, names = next(records, (0, list[str]()))
    if isinstance(names, str):
        raise InputError(f"{path.name}: its first line: {names}")
    _check_names(path, names)
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise InputError(f"{path.name} has the column {twice!r} twice; rename one of them")
    for number, fields in records:
        if isinstance(fields, str):
            yield number, fields
        elif len(fields) != len(names):
            yield number, "the row has more or fewer fields than the first line"
        elif any("\ud800" <= letter <= "\udfff" for value in fields for letter in value):
            yield number, "the row is not UTF-8"
        else:
            yield number, dict(zip(names, fields, strict=True))


def parquet_rows(path: Path) -> Iterator[NumberedRow]:
    """Yields row numbers from 0, each with its row, or with a message.

    Raises:
        InputError: the file is damaged, or has no column of file names.
    """
    try:
        with open_parquet(path) as file:
            _check_names(path, file.schema_arrow.names)
            for number, row in enumerate(rows_in(file, MAX_TEXT_BYTES)):
                bad = next((name for name, value in row.items() if isinstance(value, Exception)), "")
                yield number, f"column {bad!r}: {one_line(row[bad])}" if bad else row
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path.name}: no readable parquet ({one_line(error)}); fetch or write it again") from error


def _check_names(path: Path, columns: Any) -> None:
    if file_column(columns):
        return
    found, only = what_file_is(path), str(columns[0]) if len(columns) == 1 else ""
    if separator := next((one for one in (";", "\t", "|") if file_column(only.split(one))), ""):
        found = f"it is separated by {separator!r}; separate it by commas"
    elif "a text" in found or "a parquet" in found:
        found = f"its columns are {list(columns)}"
    raise InputError(f"{path.name} has no column {FILE_NAME}; {found}")
