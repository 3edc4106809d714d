"""The corpus's own columns in the token table: a type for each that all of its values have, or JSON text."""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from tokenization.corpora.samples import readable

Rows = list[dict[str, Any]]
NOT_OF_ONE_TYPE = (pa.ArrowException, OverflowError, UnicodeError)
"""What Arrow raises for mixed types, integers beyond 64 bits, and lone surrogates."""


class ColumnTypes:
    """Finds the type of each column of a shard, whose rows come in groups."""

    def __init__(self) -> None:
        self._found: dict[str, set[pa.DataType | None]] = {}

    def add(self, rows: Rows) -> None:
        """Looks at the rows of a group; a row may lack columns."""
        for name in {name for row in rows for name in row}:
            self._found.setdefault(name, set()).add(column_type([row.get(name) for row in rows]))

    def settled(self, groups: Iterable[Rows]) -> dict[str, pa.DataType | None]:
        """The columns' types by name, sorted; None for JSON text. `groups` are those that were added. They are only
        iterated if a column has integers in one of them and other numbers in another."""
        types = {name: common_type(found) for name, found in sorted(self._found.items())}
        mixed = [name for name, kind in types.items() if kind and len(self._found[name] - {pa.null()}) > 1]
        for rows in groups if mixed else ():
            for name in mixed:
                try:
                    as_column([row.get(name) for row in rows], types[name])
                except NOT_OF_ONE_TYPE:  # an integer that no float64 equals
                    types[name] = None
        return types


def column_type(values: list[Any]) -> pa.DataType | None:
    """The type of these values; None if they have none in common, or a nested one."""
    try:
        kind = pa.array(values).type
    except NOT_OF_ONE_TYPE:
        return None
    return None if pa.types.is_nested(kind) else kind


def common_type(found: set[pa.DataType | None]) -> pa.DataType | None:
    """The type of a column whose groups have these types."""
    kinds = found - {pa.null()}
    if len(kinds) > 1:
        is_number = all(kind and (pa.types.is_integer(kind) or pa.types.is_floating(kind)) for kind in kinds)
        return pa.float64() if is_number else None
    return next(iter(kinds), pa.null())


def as_column(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """The values as a column of a type; None for JSON text.

    Raises:
        ArrowException, OverflowError, UnicodeError: a value is not of this type.
    """
    if kind is not None:
        return pa.array(values, kind)
    texts = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
    return pa.array([None if text is None else readable(text) for text in texts], pa.string())
