"""Reads the rows of a csv file. A quote that is never closed costs its row, and none of those that follow."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tokenization.corpora.names import is_picture
from tokenization.corpora.samples import MAX_TEXT_BYTES
from tokenization.errors import InputError

MAX_LINES = 1000
"""Maximum number of lines of a row whose texts have line breaks."""
WIDE = (b"\xff\xfe", b"\xfe\xff")
"""How a text in UTF-16 begins."""


class _Lines:
    """The lines of a file, of which those of a row can be put back."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._again = file, list[str]()
        self.number, self.taken = 0, list[str]()

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MAX_LINES or sum(map(len, self.taken[-1:])) > MAX_TEXT_BYTES:
            raise csv.Error("it is too long")
        line = self._again.pop() if self._again else self._file.readline(MAX_TEXT_BYTES + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        return line

    def put_back(self) -> None:
        """Puts all lines of the row back but its first one."""
        self._again += reversed(self.taken[1:])
        self.number -= len(self.taken) - 1


def csv_records(path: Path) -> Iterator[tuple[int, list[str] | str]]:
    """Yields the number of each row's last line, with its fields, or with a message. The first row is the header, or a
    message. Skips blank lines.

    Raises:
        InputError: the file is UTF-16.
    """
    check_narrow(path)
    csv.field_size_limit(MAX_TEXT_BYTES)
    header: list[str] = []
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _Lines(file)
        while True:
            lines.taken = []
            try:
                fields = next(csv.reader(lines, strict=True))
            except StopIteration:
                return
            except csv.Error as error:
                lines.put_back()
                yield lines.number, f"the row cannot be read: {error}; is a quote not closed?"
                continue
            if not fields:
                continue
            if header and (inner := _row_within(lines.taken, header)):
                first = lines.number - len(lines.taken) + 1
                lines.put_back()
                yield lines.number, f"a quote is open from line {first} to {first + inner}, which is a row of its own"
                continue
            if not header:
                fields = header = [name.strip() for name in fields]  # as in "file_name, caption"
            yield lines.number, fields


def check_narrow(path: Path) -> None:
    """Raises InputError if the file is a text in UTF-16."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(WIDE) or start[1::2].count(0) > len(start) // 3 or start[::2].count(0) > len(start) // 3:
        raise InputError(f"{path.name} is a text in UTF-16; save it as UTF-8")


def _row_within(lines: list[str], header: list[str]) -> int:
    """Which line of a row looks like a row that names a picture; 0 if none does. The first one is not asked."""
    for number, line in enumerate(lines[1:], start=1):
        fields = next(csv.reader([line]), [])
        names = [field for name, field in zip(header, fields, strict=False) if name.endswith("file_name")]
        if len(fields) == len(header) and any(map(is_picture, names)):
            return number
    return 0
