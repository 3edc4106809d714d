"""Which rows get the high resolution."""

from collections import Counter
from contextlib import suppress
from typing import Any

import pandas as pd

from tokenization.errors import InputError
from tokenization.table.queries import INCOMPARABLE, compared_with, query_rows, used_as_texts, with_numbers, with_texts
from tokenization.table.token_table import OWN_COLUMNS


def chosen(rows: list[dict[str, Any]], where: str) -> tuple[list[int], Counter[str]]:
    """Indices of the rows that match the query, and by column how many values should be numbers and are not.

    No row matches if the query names a column that no row has.
    """
    if not where:
        return list(range(len(rows))), Counter()
    plain = [{name: value for name, value in row.items() if not isinstance(value, (dict, list))} for row in rows]
    try:
        return _matches(plain, where)
    except InputError:  # of some row's values: they cost that row
        matches, lost = list[int](), Counter[str]()
        for place, row in enumerate(plain):
            try:
                matched, lost_of_row = _matches([row], where)
                matches += [place] * len(matched)
                lost.update(lost_of_row)
            except InputError:
                lost[INCOMPARABLE] += 1
        return matches, lost


def _matches(rows: list[dict[str, Any]], where: str) -> tuple[list[int], Counter[str]]:
    """As `chosen`. Raises InputError if the query cannot be applied to these rows."""
    frame, lost = with_numbers(pd.DataFrame(rows), where, unchanged=OWN_COLUMNS)
    as_text = compared_with(where, (str,)) | used_as_texts(where)
    frame = frame.apply(lambda column: column if column.name in as_text else _numbers(column))
    try:
        return query_rows(with_texts(frame, where, unchanged=OWN_COLUMNS), where), lost
    except pd.errors.UndefinedVariableError:
        return [], lost


def check_query(where: str) -> None:
    """Raises InputError if `where` is not a valid pandas query for any columns."""
    if where:
        with suppress(pd.errors.UndefinedVariableError):
            query_rows(pd.DataFrame({"sample_id": ["x"]}), where)


def _numbers(column: pd.Series) -> pd.Series:
    """Converts a text column to numbers if all its values are numbers, as in a csv file."""
    if column.dtype.kind in "biufcmM":
        return column
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column
